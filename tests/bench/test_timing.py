"""Turns, budgets and the device's clock."""

import pytest

from bench.clocks import Clock, Device
from deepport.bench.timing import Budget, Stopwatch, alternate


def never() -> bool:
    return False


def test_work_is_timed_by_the_devices_events(clock: Clock) -> None:
    device = Device(clock)
    assert Stopwatch(device).seconds(lambda: clock.work(0.25)) == 0.25
    assert device.waits == 2, "what was asked before is not timed, and what is timed is done"


def test_contestants_take_turns() -> None:
    order: list[str] = []

    def turn(name: str, value: float) -> float:
        order.append(name)
        return value

    found = alternate({"a": lambda: turn("a", 1.0), "b": lambda: turn("b", 2.0)}, 3, never)
    assert order == ["a", "b"] * 3
    assert found.samples == {"a": [1.0] * 3, "b": [2.0] * 3}
    assert not found.interrupted


def test_time_that_is_over_leaves_one_round(clock: Clock) -> None:
    def slow() -> float:
        clock.work(100.0)
        return 100.0

    found = alternate({"a": slow}, 5, Budget(10.0, clock).part(2))
    assert found.samples == {"a": [100.0]}


def test_a_budget_is_shared_by_what_is_to_come(clock: Clock) -> None:
    budget = Budget(30.0, clock)
    over = budget.part(3)
    clock.work(9.0)
    assert not over()
    clock.work(1.0)
    assert over()
    clock.work(50.0)
    assert budget.left < 0
    assert budget.part(3)(), "a budget that is spent has no parts"


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_an_interrupt_keeps_whole_rounds(at: int) -> None:
    turns = 0

    def turn() -> float:
        nonlocal turns
        turns += 1
        if turns == at:
            raise KeyboardInterrupt
        return float(turns)

    found = alternate({"a": turn, "b": turn}, 5, never)
    assert found.interrupted
    assert found.count == (at - 1) // 2
    assert all(len(s) == found.count for s in found.samples.values())
