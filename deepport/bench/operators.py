"""Operators, timed one by one as a model calls them, by whoever serves them on the device.

A decode step is captured and replayed where the device can do that (`deepport.graph`): so is an operator with few tokens, and
what a call through the dispatcher takes stands beside it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_map_only

from deepport.bench.contest import OURS, Outcome, contest
from deepport.bench.grid import Work
from deepport.bench.limits import Limits, Need
from deepport.bench.peak import MEMORY
from deepport.bench.result import Served
from deepport.bench.rotation import Arguments, rotate, streamed_bytes
from deepport.bench.timing import Stopwatch, Turn
from deepport.graph import Capture, Graph
from deepport.op import Operator, operators
from deepport.policy import REFERENCE, Session
from deepport.record import Record

_LONG = 1e-3
"""Seconds of work that a clock times well; shorter calls are timed several at once."""

_MOST_CALLS = 4096

_DECODING = 16
"""Tokens up to which a call is one of a decode step."""

_REPLAYED = 256
"""Calls in a graph that uses the same arguments again and again."""

CALLED = "call"
"""The contestant that calls the operator alone, where ours is replayed."""


@dataclass(frozen=True)
class Place:
    """Where and with what operators are timed.

    Attributes:
        beyond: bytes that no cache holds.
        capture: how the device's backend captures steps; None where it does not, and each call goes through the dispatcher.
    """

    device: torch.device
    stopwatch: Stopwatch
    limits: Limits
    beyond: int
    capture: Capture | None = None


class Timed:
    """A work's calls, each with the next of its variants, so that what it streams is cold."""

    def __init__(self, work: Work, place: Place) -> None:
        self.operator: Operator[..., Any] = operators[work.operator]
        self._place, self._tokens = place, work.tokens
        drawn = work.build(Generator().manual_seed(0))
        moved = tree_map_only(Tensor, lambda t: t.to(place.device), drawn)
        given = {n: moved.get(n, self.operator.defaults.get(n)) for n in self.operator.parameters}
        self.cost, self.served = self.operator.cost(*given.values()), self._who(given)
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

    def replayed(self) -> Turn | None:
        """A turn that replays a call with each variant; None where the device cannot, or the work is not a decode step's."""
        capture = self._place.capture
        if capture is None or self._tokens > _DECODING or self.served.implementation == REFERENCE:
            return None
        calls = list(self._variants) * (1 if self.cold else _REPLAYED)

        def step() -> Tensor:
            for arguments in calls:
                self.operator(*arguments)
            return torch.empty(0)

        _, graph = capture(step, (), None)
        return None if isinstance(graph, str) else lambda: self._replay(graph, len(calls))

    def _replay(self, graph: Graph, calls: int) -> float:
        self._forget()
        return self._place.stopwatch.seconds(graph.replay) / calls

    def _forget(self) -> None:
        if self._evict:
            self._place.limits.probe(MEMORY)

    def _time(self, run: Callable[..., object], calls: int) -> float:
        self._forget()
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
    # A backward's reference records: in inference mode it could not.
    with torch.no_grad() if work.operator.endswith("_backward") else torch.inference_mode():
        timed = Timed(work, place)
        need = Need(timed.cost.flops, timed.cost.bytes, dtype, timed.cold, work.row)
        replayed, called = timed.replayed(), timed.turn(timed.operator)
        turns = {OURS: called} if replayed is None else {OURS: replayed, CALLED: called}
        if peers and timed.served.implementation != REFERENCE:
            turns[REFERENCE] = timed.turn(timed.operator.reference)
        return contest(
            turns, need, place.limits, rounds, over, kind="operator", name=work.operator, model=work.model,
            replayed=replayed is not None, label=work.label, tokens=work.tokens, dtype=dtype, format=work.format,
            served=(timed.served,),
        )  # fmt: skip
