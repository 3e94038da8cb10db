"""What the tests of the benchmark share."""

from collections.abc import Callable

import pytest

from bench.clocks import Clock, Device
from deepport.bench.limits import Limits
from deepport.bench.peak import MEMORY, Peak, gemm_name
from deepport.bench.timing import Stopwatch


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stopwatch(clock: Clock) -> Stopwatch:
    return Stopwatch(Device(clock))


@pytest.fixture
def limits(clock: Clock, stopwatch: Stopwatch) -> Limits:
    """A device that reads 10 B/s from memory and 40 B/s from a cache of 100 B, gathers 2 B/s, and multiplies at 100 flop/s."""

    def peak(name: str, rate: float, holds: int = 0, unit: str = "B/s") -> Peak:
        def start() -> Callable[[], float]:
            def work() -> float:
                clock.work(1.0)
                return rate

            return work

        return Peak(name, unit, start, "a test", holds)  # type: ignore[arg-type]

    peaks = [peak(MEMORY, 10.0), peak("read L1", 40.0, 100), peak("gather 256 B", 2.0), peak("gather 512 B", 4.0)]
    return Limits([*peaks, peak(gemm_name("bfloat16"), 100.0, unit="flop/s")], stopwatch, clock)
