"""Fault plans: how they are read and counted, and what a run of deepport makes of them."""

import time

import pytest

from cann.conftest import Run
from cann.faults import Plan


def test_a_plan_counts_each_operator() -> None:
    plan = Plan.parse("aclnnMm@2=7,late:aclnnMm,aclnnAdd")
    assert [plan.refusal("aclnnMm") for _ in range(3)] == [0, 7, 0]
    assert [plan.late("aclnnMm") for _ in range(2)] == [507015, 0]
    assert plan.refusal("aclnnAdd") == 561000
    assert plan.allocation() == plan.gone() == 0


def test_memory_and_the_device_stay_away() -> None:
    plan = Plan.parse("memory@2")
    assert [plan.allocation() for _ in range(4)] == [0, 207001, 207001, 207001]
    plan = Plan.parse("device@2")
    assert [plan.refusal("aclnnAny") for _ in range(3)] == [0, 507010, 507010]
    assert plan.gone() == plan.allocation() == 507010


def test_no_plan_is_no_fault() -> None:
    assert Plan.parse("").codes == {}


@pytest.mark.parametrize("text", ["aclnnMm@0", "aclnnMm=x", "a b", "late:", "=3"])
def test_a_plan_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a fault"):
        Plan.parse(text)


@pytest.mark.slow
@pytest.mark.parametrize("options", ["", "--lazy --task-queue 1"])
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("aclnnCat@5=561000", "call aclnnCat failed, error code is 561000"),
        ("late:aclnnCat@5=507015", "507015"),
        ("memory", "out of memory"),
        ("device@100", "507010"),
    ],
)
def test_deepport_ends_with_one_line(npu: Run, fault: str, said: str, options: str) -> None:
    begin = time.monotonic()
    arguments = ("-m", "deepport.run", "--device", "npu", "--prompt", "Return", "--max-new-tokens", "2")
    done = npu(*arguments, options=f"--fault {fault} {options}")
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("deepport: ")]
    assert len(lines) == 1 and said in lines[0], done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - begin < 60  # nothing hangs


@pytest.mark.slow
def test_a_late_error_is_named_by_the_run_that_waits(npu: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first line says how to make every call wait; that run names the operator, with its arguments."""
    arguments = ("-m", "deepport.run", "--device", "npu", "--prompt", "Return", "--max-new-tokens", "2")
    options = "--lazy --fault late:aclnnSearchSorted"
    first = npu(*arguments, options=options).stderr.splitlines()[-1]
    assert ", or in an earlier call: ASCEND_LAUNCH_BLOCKING=1 makes each wait for the device" in first
    monkeypatch.setenv("ASCEND_LAUNCH_BLOCKING", "1")
    second = npu(*arguments, options=options).stderr.splitlines()[-1]
    assert "aclnnSearchSorted" in second and "earlier call" not in second
    assert "; in " in second and " by " in second and " int32 2" in second
