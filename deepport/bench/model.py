"""Whole models: prompts read in chunks, and tokens decoded at given depths, beside peers where there are any."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from deepport.bench.contest import OURS, Outcome, contest
from deepport.bench.limits import Limits, Need
from deepport.bench.peers.process import PeerProcess
from deepport.bench.quantised import dequantised
from deepport.bench.step import Step
from deepport.bench.timing import Stopwatch, Turn
from deepport_model import Model
from deepport_model.transformer import Transformer, cast

SETTLING = 2
"""Tokens decoded before those that are timed: steps may be captured by then (`deepport.graph`)."""


class Ours:
    """One sequence of our model."""

    def __init__(self, transformer: Transformer, capacity: int, chunk: int, stopwatch: Stopwatch) -> None:
        self._transformer, self._stopwatch = transformer, stopwatch
        self._cache = transformer.cache(1, min(capacity, transformer.config.max_position_embeddings), chunk)
        self._last: Tensor | None = None

    def reset(self) -> None:
        self._cache.reset()

    def feed(self, ids: Sequence[int]) -> float:
        return self._stopwatch.seconds(lambda: self._read(ids))

    def _read(self, ids: Sequence[int]) -> None:
        if len(ids) == 1:  # as generation does it
            self._last = self._transformer.step(self._cache.append({0: ids}), self._cache, "last")[0]
            return
        for _, ended in self._transformer.prefill(self._cache, {0: ids}):
            self._last = ended.get(0, self._last)

    def logits(self) -> Tensor:
        if self._last is None:
            raise ValueError("no token has been computed")
        return self._last.float().cpu()


def exact(transformer: Transformer) -> Transformer:
    """The same weights in float32."""
    found = dequantised(transformer, torch.float32)
    kept = {id(t): t for t in (*found.parameters(), *found.buffers()) if t.dtype == torch.float32}
    return cast(copy.deepcopy(found, kept), torch.float32)


def drawn(vocabulary: int, count: int, seed: int = 0) -> list[int]:
    """Token ids, the same for everybody."""
    draw = random.Random(seed)
    return [draw.randrange(vocabulary) for _ in range(count)]


@dataclass
class Bench:
    """What whole-model figures are measured with.

    `rates`: tokens a second that each contestant was last seen to read; what a long prompt would take is known by it.
    """

    name: str
    model: Model
    format: str
    chunk: int
    limits: Limits
    ours: Ours
    peers: dict[str, PeerProcess]
    rates: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.dtype = str(self.model.transformer.dtype).removeprefix("torch.")

    def runners(self) -> dict[str, Ours | PeerProcess]:
        return {OURS: self.ours, **self.peers}

    def seconds_to_read(self, tokens: int) -> float:
        """All contestants', by what they were seen to do; 0 where nobody was."""
        return sum(tokens / rate for rate in self.rates.values())

    def ids(self, count: int) -> list[int]:
        return drawn(self.model.config.vocab_size, count)


def prefill(bench: Bench, tokens: int, rounds: int, over: Callable[[], bool]) -> Outcome:
    """Reading a prompt of so many tokens, from nothing."""
    ids = bench.ids(tokens)

    def fresh(name: str) -> float:
        runner = bench.runners()[name]
        runner.reset()
        seconds = runner.feed(ids)
        bench.rates[name] = tokens / seconds
        return seconds

    with torch.inference_mode(), bench.model.session():
        bench.ours.reset()
        step = _recorded(bench, ids)
        turns = {name: partial(fresh, name) for name in bench.runners()}
        label = f"{tokens} tokens in steps of {min(bench.chunk, tokens)}"
        facts = {"kind": "prefill", "tokens": tokens, "label": label}
        # Its matrices are read many times: whether they come from memory the first time decides nothing.
        return _contest(bench, turns, step, rounds, over, cold=False, **facts)


def decode(bench: Bench, depth: int, rounds: int, over: Callable[[], bool]) -> Outcome:
    """One token after `depth` others, so many times, one by one; the depth grows by as many.

    What a step reads comes from memory: the limit's probe before it reads more than a cache holds.
    """
    ids = iter(bench.ids(depth + rounds + SETTLING + 1)[depth:])
    now: list[int] = []

    def first() -> float:
        now[:] = [next(ids)]
        return bench.ours.feed(now)

    def other(peer: PeerProcess) -> float:
        return peer.feed(now)

    turns: dict[str, Turn] = {OURS: first, **{name: partial(other, peer) for name, peer in bench.peers.items()}}
    with torch.inference_mode(), bench.model.session():
        _fill(bench, depth)
        for _ in range(SETTLING):
            for turn in turns.values():
                turn()
        now[:] = [next(ids)]
        step = _recorded(bench, now)
        for peer in bench.peers.values():
            peer.feed(now)
        facts = {"kind": "decode", "tokens": 1, "depth": depth, "label": f"one token after {depth}"}
        return _contest(bench, turns, step, rounds, over, cold=True, **facts)


def _fill(bench: Bench, depth: int) -> None:
    for name, runner in bench.runners().items():
        runner.reset()
        bench.rates[name] = depth / runner.feed(bench.ids(depth))


def _recorded(bench: Bench, ids: Sequence[int]) -> Step:
    """Who serves what of a step, and what it costs; not timed."""
    step = Step()
    with bench.model.session(record=step):
        bench.ours.feed(ids)
    return step


def _contest(
    bench: Bench, turns: Mapping[str, Turn], step: Step, rounds: int, over: Callable[[], bool], cold: bool, **facts: Any
) -> Outcome:
    need = Need(step.flops, step.bytes, bench.dtype, cold)
    who = {"name": bench.name, "model": bench.name, "dtype": bench.dtype, "format": bench.format}
    return contest(turns, need, bench.limits, rounds, over, served=step.served(), **who, **facts)
