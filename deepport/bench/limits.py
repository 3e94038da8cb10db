"""The limits of a device as this run probes them, each again when it is needed: a shared machine's change within seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deepport.bench.peak import GATHERED, MEMORY, Peak, Work, gather_name, gemm_name
from deepport.bench.result import Limit
from deepport.bench.spread import Spread
from deepport.bench.timing import Stopwatch

FRESH = 30.0
"""Seconds for which a probe speaks of the machine."""

_FIRST = 3
"""Probes of a limit that has none that is fresh."""


@dataclass(frozen=True)
class Need:
    """What a call asks of the device.

    Attributes:
        flops, bytes: at least.
        dtype: that the arithmetic is in.
        cold: the bytes come from memory; else they may lie in a cache that holds so many.
        row: bytes that lie together, where rows are read at random; 0 where all is in order.
    """

    flops: float
    bytes: float
    dtype: str
    cold: bool
    row: int = 0


@dataclass(frozen=True)
class Bound:
    """The limit that a need meets first, and how much of it."""

    limit: str
    amount: float


class Limits:
    """Every peak of a device and what its probes gave. A peak's buffers are allocated with its first probe."""

    def __init__(self, peaks: Sequence[Peak], stopwatch: Stopwatch, now: Callable[[], float] = time.monotonic) -> None:
        self._peaks = {p.name: p for p in peaks}
        self._stopwatch, self._now = stopwatch, now
        self._work: dict[str, Work] = {}
        self._samples: dict[str, list[tuple[float, float]]] = {}

    def probe(self, name: str) -> float:
        """One probe: its rate."""
        if name not in self._work:
            self._work[name] = self._peaks[name].start()
            self._work[name]()  # touches the memory, wakes the threads
        amount = 0.0

        def work() -> None:
            nonlocal amount
            amount = self._work[name]()

        seconds = self._stopwatch.seconds(work)
        self._samples.setdefault(name, []).append((self._now(), amount / seconds))
        return amount / seconds

    def probe_all(self) -> None:
        for name in self._peaks:
            self.rate(name)

    def probe_every(self) -> None:
        """One probe of each more."""
        for name in self._peaks:
            self.probe(name)

    def rate(self, name: str) -> float:
        """The median of fresh probes, taken now where there are none."""
        since = self._now() - FRESH
        fresh = [rate for at, rate in self._samples.get(name, []) if at >= since]
        while len(fresh) < _FIRST:
            fresh.append(self.probe(name))
        return Spread.of(fresh).median

    def bound(self, need: Need) -> Bound | None:
        """What sets the bound `max(bytes / bandwidth, flops / peak)`; None where no peak speaks of either."""
        found = []
        if (memory := self._memory(need)) is not None:
            found.append(Bound(memory, need.bytes))
        if (gemm := gemm_name(need.dtype)) in self._peaks:
            found.append(Bound(gemm, need.flops))
        reached = (b for b in found if b.amount)
        return max(reached, key=lambda b: b.amount / self.rate(b.limit), default=None)

    def _memory(self, need: Need) -> str | None:
        if need.row and need.cold:
            return gather_name(max((r for r in GATHERED if r <= need.row), default=GATHERED[0]))
        if need.cold:
            return MEMORY
        caches = sorted((p.holds, p.name) for p in self._peaks.values() if p.holds)
        if not caches:
            return None
        return next((name for holds, name in caches if holds >= need.bytes), MEMORY)

    def exceeded(self, need: Need, seconds: float) -> str:
        """What a call that took so long would have to have done, where the device was never seen to do it; "" else.

        Against the largest probe of the run, plus the probes' dispersion.
        """
        pairs = [(self._memory(need), need.bytes), (gemm_name(need.dtype), need.flops)]
        for name, amount in pairs:
            if name is None or not (samples := self._samples.get(name)):
                continue
            spread = Spread.of(rate for _, rate in samples)
            most = spread.most + spread.mad
            if amount / seconds > most:
                unit = self._peaks[name].unit
                return f"{amount / seconds / 1e9:.4g} G{unit}, and the largest probe of {name} gave {most / 1e9:.4g}"
        return ""

    def found(self) -> tuple[Limit, ...]:
        """All that was probed."""
        return tuple(
            Limit(name=n, unit=p.unit, by=p.by, rate=Spread.of(rate for _, rate in self._samples[n]), holds=p.holds)
            for n, p in self._peaks.items()
            if n in self._samples
        )
