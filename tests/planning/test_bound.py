"""Least times of calls, reckoned by hand, and what must be true of any."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepport.chips.profile import Profile
from deepport.planning.bound import bound, operators, seconds, shares
from deepport.planning.trace import Call
from planning.chips import chip


def call(
    flops: float = 0.0, state: float = 0.0, element: str = "bfloat16", operator: str = "linear", row: float = 0.0
) -> Call:
    return Call("layers.0.attn.wq_a", operator, flops, 2 * state, state, element, row)


def one(given: Call, profile: Profile, devices: int = 1) -> tuple[float, str]:
    (timed,) = bound([given], profile, devices)
    return timed.seconds, timed.by


ROOF = chip({"bfloat16": 1000.0, "int8": 4000.0}, bandwidth=10.0)


def test_a_call_takes_what_it_needs_most_of() -> None:
    assert one(call(flops=500.0, state=20.0), ROOF) == (2.0, "memory")  # 20 B at 10 B/s; the arithmetic takes 0.5 s
    assert one(call(flops=5000.0, state=20.0), ROOF) == (5.0, "compute bfloat16")
    assert one(call(flops=5000.0, state=20.0, element="int8"), ROOF) == (2.0, "memory")
    assert one(call(flops=5000.0, state=20.0), ROOF, devices=4) == (1.25, "compute bfloat16")


def test_a_launch_comes_on_top() -> None:
    slow = chip({"bfloat16": 1000.0}, bandwidth=10.0, launch=3.0)
    assert one(call(flops=500.0, state=20.0), slow) == (5.0, "launch")
    assert one(call(flops=9000.0), slow) == (12.0, "compute bfloat16")
    assert one(call(), slow, devices=8) == (3.0, "launch"), "devices launch each"


def test_what_is_unknown_bounds_nothing() -> None:
    assert one(call(flops=500.0, state=20.0), chip()) == (0.0, "unknown")
    assert one(call(flops=500.0, state=20.0), chip(bandwidth=10.0)) == (2.0, "memory")
    assert one(call(flops=500.0, state=20.0, element="fp8"), chip({"fp8": 100.0})) == (5.0, "compute fp8")
    assert one(call(flops=500.0, state=20.0, element="bfloat16"), chip({"fp8": 100.0})) == (0.0, "unknown")


def test_a_cache_may_hold_what_a_step_reads() -> None:
    """Of 20 B in all 5 may lie in the cache: at its own rate, or for nothing where that is unknown."""
    calls = [call(state=15.0), call(state=5.0)]
    assert seconds(bound(calls, chip(bandwidth=10.0, cache=5.0), 1)) == pytest.approx(1.5)
    assert seconds(bound(calls, chip(bandwidth=10.0, cache=5.0, cache_bandwidth=50.0), 1)) == pytest.approx(1.6)
    assert seconds(bound(calls, chip(bandwidth=10.0, cache=5.0, cache_bandwidth=1.0), 1)) == pytest.approx(2.0)
    assert seconds(bound(calls, chip(bandwidth=10.0, cache=99.0), 1)) == 0.0


def test_rows_at_random_come_as_such_rows_do() -> None:
    rows = chip(gather={256: 2.0, 512: 4.0}, bandwidth=10.0)
    gathered = call(state=20.0, operator="engram_gather", row=264.0)
    assert one(gathered, rows) == (5.0, "memory")
    assert one(call(state=20.0, operator="engram_gather", row=64.0), rows) == (10.0, "memory")
    assert one(call(state=20.0, operator="engram_gather", row=4096.0), rows) == (2.0, "memory"), "as if in order"


def test_shares_and_operators_add_up() -> None:
    timed = bound([call(state=30.0), call(flops=1000.0), call(flops=1000.0, operator="route")], ROOF, 1)
    assert shares(timed) == pytest.approx({"memory": 0.6, "compute bfloat16": 0.4})
    assert shares(timed, 5.0) == pytest.approx({"host link": 0.5, "memory": 0.3, "compute bfloat16": 0.2})
    first, second = operators(timed)
    assert (first.name, first.calls, first.seconds, first.by) == ("linear bfloat16", 2, 4.0, "memory")
    assert (second.name, second.bytes, second.flops) == ("route bfloat16", 0.0, 1000.0)


RATES = st.floats(1e-3, 1e15)
CALLS = st.lists(
    st.builds(call, st.floats(0, 1e15), st.floats(0, 1e12), st.sampled_from(["bfloat16", "fp4", "float32"])), min_size=1
)


@given(CALLS, RATES, RATES, st.floats(0, 1e10), st.integers(1, 1000), st.floats(1, 1e3))
def test_more_of_anything_is_never_slower(
    calls: list[Call], bandwidth: float, flops: float, cache: float, devices: int, factor: float
) -> None:
    def least(
        bandwidth: float = bandwidth, flops: float = flops, cache: float = cache, devices: int = devices
    ) -> float:
        profile = chip({"bfloat16": flops, "float32": flops / 2}, bandwidth=bandwidth, cache=cache + 1)
        return seconds(bound(calls, profile, devices))

    most = least() * (1 + 1e-9)
    assert least(bandwidth=bandwidth * factor) <= most
    assert least(flops=flops * factor) <= most
    assert least(cache=cache * factor) <= most
    assert least(devices=devices + 1) <= most
    assert seconds(bound(calls, chip(), devices)) == 0.0
