"""A device whose time passes only where work says so."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from deepport.backend import Memory


class Clock:
    """Seconds since the test began."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds


class _Event:
    def __init__(self, clock: Clock) -> None:
        self._clock, self._at = clock, 0.0

    def record(self) -> None:
        self._at = self._clock.now

    def wait(self) -> None:
        """Nothing is outstanding."""

    def seconds_since(self, earlier: Any) -> float:
        return self._at - float(earlier._at)


class Device:
    """A runtime on this clock; counts how often it is waited for."""

    asynchronous = True

    def __init__(self, clock: Clock) -> None:
        self._clock, self.waits = clock, 0

    def synchronize(self) -> None:
        self.waits += 1

    def stream(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def event(self) -> _Event:
        return _Event(self._clock)

    def memory(self) -> Memory:
        return Memory(0, 0, 1, 1)

    def reset_peak(self) -> None:
        """There is none."""
