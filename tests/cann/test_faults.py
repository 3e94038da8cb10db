"""Fault plans: how they are read and counted, and what a run of deepport makes of them."""

import re
import time

import pytest

from cann.conftest import Run
from cann.faults import Plan

RUN = ("-m", "deepport.run", "--device", "npu", "--random-prompt", "256", "--max-new-tokens", "2")
CALL = re.compile(r"; in \w+\(.* by (npu/)?\w+")
"""What a line says of the call: our operator, its arguments, and who served it."""


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
        ("memory@5", "out of memory"),
        ("device@100", "507010"),
    ],
)
def test_deepport_ends_with_one_line(npu: Run, fault: str, said: str, options: str) -> None:
    begin = time.monotonic()
    done = npu(*RUN, options=f"--fault {fault} {options}")
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("deepport: ")]
    assert len(lines) == 1 and said in lines[0], done.stderr
    assert CALL.search(lines[0]) and "earlier call" not in lines[0]
    assert "Traceback" not in done.stderr
    assert time.monotonic() - begin < 120  # nothing hangs


@pytest.mark.slow
@pytest.mark.parametrize("options", ["", "--task-queue 1"])
def test_a_late_error_is_named_by_a_second_run_that_waits(npu: Run, options: str) -> None:
    """The first run cannot know; the second, whose calls wait, names the vendor's operator and ours with its arguments."""
    said = npu(*RUN, options=f"--lazy --fault late:aclnnSearchSorted {options}").stderr
    assert "the device failed; running once more with ASCEND_LAUNCH_BLOCKING=1" in said, said
    lines = said.splitlines()
    assert "aclnnSearchSorted" in lines[-1] and "so says a second run" in lines[-1], said
    assert " int32 2" in lines[-1][slice(*CALL.search(lines[-1]).span())]  # type: ignore[union-attr]
