"""Which declared gaps a run may call stale."""

import pytest

import deepport.ops  # noqa: F401  (declares the operators)
from deepport.conformance.ledger import _stale
from deepport.conformance.profile import Profile
from deepport.conformance.result import CaseKey, Result
from deepport.gap import Gap
from deepport.op import operators


def gap(operator: str, case: str) -> Gap:
    return Gap(operator, "never", "a reason", "2999-01-01", case=case)


def result(operator: str, label: str = "shape=3x7") -> Result:
    return Result(
        id=operator, operator=operator, case=CaseKey(grid="operator", label=label, builder="b", parameters={}),
        dtype="float32", implementation="reference", serving=True, kernel_hash="", spec_hash="", status="pass", evidence="E5",
    )  # fmt: skip


FORWARD = [name for name in operators if not name.endswith("_backward")]


@pytest.mark.parametrize(
    ("declared", "profile", "ran", "stale"),
    [
        (gap("rms_norm", "*7x7*"), "inference", ["rms_norm", "swiglu"], True),
        (gap("rms_norm", "*3x7*"), "inference", ["rms_norm", "swiglu"], False),
        (gap("rms_norm", "*7x7*"), "bring-up", ["rms_norm"], False),  # it may be of another grid
        (gap("rms_norm", "*7x7*"), "inference", ["swiglu"], False),  # it was not asked for
        (gap("*", "*7x7*"), "inference", ["rms_norm"], False),  # the others may have it
        (gap("*", "*7x7*"), "inference", [*FORWARD, "model"], True),
        (gap("*", "*7x7*"), "training", [*FORWARD, "model"], False),
    ],
)
def test_a_gap_is_stale_where_all_that_it_speaks_of_was_run(
    declared: Gap, profile: Profile, ran: list[str], stale: bool
) -> None:
    found = _stale((declared,), profile, [result(name) for name in ran])
    assert bool(found) is stale, found


def test_a_gap_of_no_operator_is_told() -> None:
    assert "names no operator" in _stale((gap("rmsnorm", "*"),), "bring-up", [result("rms_norm")])[0]
