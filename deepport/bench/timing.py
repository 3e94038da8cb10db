"""Time, by the device's own clock, and contestants in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from deepport.backend import Runtime

Turn = Callable[[], float]
"""Does something once, and returns what was measured of it: seconds, or a rate."""


class Stopwatch:
    """Times work on a device: by its events where calls return early, by the host's clock where they do not."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def seconds(self, work: Callable[[], object]) -> float:
        """Of all that `work` asks of the device."""
        self._runtime.synchronize()
        begin, end = self._runtime.event(), self._runtime.event()
        begin.record()
        work()
        end.record()
        self._runtime.synchronize()
        return end.seconds_since(begin)


class Budget:
    """Seconds that a run may take; what is started is brought to an end, with a round at least."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self.now, self._end = now, now() + seconds

    @property
    def left(self) -> float:
        return self._end - self.now()

    def part(self, of: int) -> Callable[[], bool]:
        """Whether an equal part of what is now left, for `of` things to come, is over."""
        end = self.now() + max(self.left, 0.0) / max(of, 1)
        return lambda: self.now() >= end


@dataclass
class Rounds:
    """What whole rounds gave, by contestant. `interrupted`: Ctrl-C ended them; the round it fell into is not among them."""

    samples: dict[str, list[float]] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def count(self) -> int:
        return min((len(s) for s in self.samples.values()), default=0)


def alternate(contestants: Mapping[str, Turn], rounds: int, over: Callable[[], bool]) -> Rounds:
    """A B A B ...: a machine that slows down slows all of them. After the first round, ends when `over` says so."""
    found = Rounds({name: [] for name in contestants})
    try:
        while found.count < rounds and not (found.count and over()):
            taken = {name: turn() for name, turn in contestants.items()}
            for name, value in taken.items():
                found.samples[name].append(value)
    except KeyboardInterrupt:
        found.interrupted = True
    return found
