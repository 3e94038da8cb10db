"""Operators, timed one by one as a model calls them: through the dispatcher, by whoever serves them on the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from deepport.bench.contest import OURS, Outcome, contest
from deepport.bench.grid import Work
from deepport.bench.limits import Limits, Need
from deepport.bench.peak import MEMORY
from deepport.bench.result import Served
from deepport.bench.rotation import Arguments, rotate, streamed_bytes
from deepport.bench.timing import Stopwatch, Turn
from deepport.op import Operator, operators
from deepport.policy import REFERENCE, Session
from deepport.record import Record

_LONG = 1e-3
"""Seconds of work that a clock times well; shorter calls are timed several at once."""

_MOST_CALLS = 4096


@dataclass(frozen=True)
class Place:
    """Where and with what operators are timed. `beyond`: bytes that no cache holds."""

    device: torch.device
    stopwatch: Stopwatch
    limits: Limits
    beyond: int


class Timed:
    """A work's calls, each with the next of its variants, so that what it streams is cold."""

    def __init__(self, work: Work, place: Place) -> None:
        self.operator: Operator[..., Any] = operators[work.operator]
        self._place = place
        drawn = work.build(Generator().manual_seed(0))
        moved = {n: v.to(place.device) if isinstance(v, Tensor) else v for n, v in drawn.items()}
        given = {n: moved.get(n, self.operator.defaults.get(n)) for n in self.operator.parameters}
        self.cost, self.served = self.operator.cost(**given), self._who(given)
        self.cold, self._evict, variants = bool(work.streamed), False, [given]
        if self.cold:
            found = rotate(given, work.streamed, self._touched(given, work.streamed), place.beyond, work.vary)
            self._evict, variants = found.evict, found.variants
        self._variants = deque(tuple(v.values()) for v in variants)

    def _touched(self, given: Arguments, streamed: tuple[str, ...]) -> float:
        """What the operator says it must read, but for what is not streamed; at most all that is."""
        rest = streamed_bytes(given, tuple(n for n in given if n not in streamed))
        whole = streamed_bytes(given, streamed)
        return min(max(self.cost.bytes - rest, 1.0), whole)

    def _who(self, arguments: Arguments) -> Served:
        record = Record()
        with Session(record=record):
            self.operator(*arguments.values())
        row = next(r for r in record.rows if r.operator == self.operator.name)
        return Served(operator=row.operator, implementation=row.implementation, calls=1)

    def turn(self, run: Callable[..., object]) -> Turn:
        """A turn of as many calls as can be timed well; returns the seconds of one."""
        calls, most = 1, len(self._variants) - 1 if self._evict else _MOST_CALLS
        while calls < most and (seconds := self._time(run, calls)) < _LONG:
            calls = min(max(2 * calls, int(calls * _LONG / max(seconds, 1e-9))), most)
        return lambda: self._time(run, calls) / calls

    def _time(self, run: Callable[..., object], calls: int) -> float:
        if self._evict:
            self._place.limits.probe(MEMORY)
        variants = self._variants
        run(*variants[0])  # instructions and activations are warm, as in a step
        variants.rotate(-1)

        def work() -> None:
            for _ in range(calls):
                run(*variants[0])
                variants.rotate(-1)

        return self._place.stopwatch.seconds(work)


def measure(work: Work, place: Place, rounds: int, over: Callable[[], bool], peers: bool) -> Outcome:
    """One work's figure. `peers`: the reference takes turns with a kernel that serves in its place."""
    dtype = str(work.dtype).removeprefix("torch.")
    with torch.inference_mode():
        timed = Timed(work, place)
        need = Need(timed.cost.flops, timed.cost.bytes, dtype, timed.cold, work.row)
        turns = {OURS: timed.turn(timed.operator)}
        if peers and timed.served.implementation != REFERENCE:
            turns[REFERENCE] = timed.turn(timed.operator.reference)
        return contest(
            turns, need, place.limits, rounds, over, kind="operator", name=work.operator, model=work.model,
            label=work.label, tokens=work.tokens, dtype=dtype, format=work.format, served=(timed.served,),
        )  # fmt: skip
