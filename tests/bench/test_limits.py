"""Which limit sets a bound, when it is probed again, and what is beyond all belief."""

import pytest

from bench.clocks import Clock
from deepport.bench.limits import FRESH, Limits, Need
from deepport.bench.peak import MEMORY

GEMM = "gemm bfloat16"


def need(flops: float = 0.0, bytes: float = 0.0, cold: bool = True, row: int = 0, dtype: str = "bfloat16") -> Need:
    return Need(flops, bytes, dtype, cold, row)


@pytest.mark.parametrize(
    ("of", "limit"),
    [
        (need(flops=50, bytes=100), MEMORY),
        (need(flops=2000, bytes=100), GEMM),
        (need(flops=2000, bytes=100, dtype="float64"), MEMORY),
        (need(bytes=100, row=256), "gather 256 B"),
        (need(bytes=100, row=600), "gather 512 B"),
        (need(bytes=100, row=64), "gather 256 B"),
        (need(bytes=100, cold=False), "read L1"),
        (need(bytes=101, cold=False), MEMORY),
    ],
)
def test_the_limit_that_is_met_first(limits: Limits, of: Need, limit: str) -> None:
    bound = limits.bound(of)
    assert bound is not None
    assert bound.limit == limit
    assert bound.amount == (of.flops if limit == GEMM else of.bytes)


def test_nothing_needed_has_no_bound(limits: Limits) -> None:
    assert limits.bound(need()) is None


def test_a_probe_is_not_old(limits: Limits, clock: Clock) -> None:
    assert limits.rate(MEMORY) == 10.0
    taken = limits.found()[0].rate.n
    clock.work(FRESH / 2)
    limits.rate(MEMORY)
    assert limits.found()[0].rate.n == taken, "still fresh"
    clock.work(FRESH)
    limits.rate(MEMORY)
    assert limits.found()[0].rate.n > taken


def test_what_was_not_probed_is_not_told(limits: Limits) -> None:
    limits.probe(MEMORY)
    assert [(limit.name, limit.by, limit.rate.n) for limit in limits.found()] == [(MEMORY, "a test", 1)]


@pytest.mark.parametrize(
    ("of", "seconds", "said"),
    [
        (need(bytes=100), 10.0, ""),
        (need(bytes=100), 9.9, "the largest probe of read memory gave 1e-08"),
        (need(flops=100, bytes=1), 0.99, "the largest probe of gemm bfloat16 gave 1e-07"),
        (need(bytes=100, cold=False), 9.9, ""),
        (need(bytes=100, cold=False), 2.4, "the largest probe of read L1 gave 4e-08"),
    ],
)
def test_figures_beyond_the_limits(limits: Limits, of: Need, seconds: float, said: str) -> None:
    limits.probe_all()
    found = limits.exceeded(of, seconds)
    assert said in found
    assert bool(said) == bool(found)


def test_dispersion_is_allowed_for(clock: Clock, limits: Limits) -> None:
    """Probes of 10, 10 and 12 B/s: at most 12, give or take nothing at the median; with 10, 11 and 12, one more."""
    limits._samples[MEMORY] = [(0.0, rate) for rate in (10.0, 11.0, 12.0)]
    assert limits.exceeded(need(bytes=130), 10.01) == ""
    assert limits.exceeded(need(bytes=130), 9.99) != ""
