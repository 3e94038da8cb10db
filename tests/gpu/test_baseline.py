"""The baseline sees every way in which a kernel can get worse, and is honest about what it holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from deepport.errors import BadInput
from deepport_triton.ahead import baseline
from deepport_triton.ahead.baseline import Baseline
from deepport_triton.ahead.result import Compiled
from deepport_triton.ahead.target import GPUS, TARGETS
from deepport_triton.architecture import GAPS

ROW = Compiled(
    "linear", "_tile *bf16 i32/16", "_tile bf16", "sm_90", 1.0, registers=100, spills=0, shared=1000, limit=2000, code=4000,
    instructions=("wgmma", "mma.sync"), product=True,
)  # fmt: skip
REFUSED = replace(ROW, name="_other *bf16", label="_other bf16", reason="too large", instructions=())


def held() -> Baseline:
    found = Baseline()
    found.take([ROW, REFUSED], {"triton": "3.7.1"}, whole=True)
    return found


def test_the_same_is_not_worse() -> None:
    assert list(held().regressions([ROW, REFUSED], whole=True)) == []


WORSE: dict[str, tuple[Callable[[Compiled], Compiled], str]] = {
    "spills": (lambda r: replace(r, spills=8), "spills 8 bytes, 0 before"),
    "registers": (lambda r: replace(r, registers=111), "registers 111, 100 before: more than 10% above"),
    "shared": (lambda r: replace(r, shared=1101), "shared 1101, 1000 before: more than 10% above"),
    "code": (lambda r: replace(r, code=5001), "code 5001, 4000 before: more than 25% above"),
    "instruction": (lambda r: replace(r, instructions=("mma.sync",)), "no wgmma any more"),
    "refused": (lambda r: replace(r, reason="error: no"), "no longer compiles: error: no"),
    "unknown": (lambda r: replace(r, name="_tile *fp16"), "is not in the baseline"),
}


@pytest.mark.parametrize("what", WORSE)
def test_what_is_worse_is_told(what: str) -> None:
    change, told = WORSE[what]
    (said,) = held().regressions([change(ROW)], whole=False)
    assert said.startswith("sm_90: _tile bf16: ") and told in said


def test_what_grows_less_than_its_share_is_not_told() -> None:
    grown = replace(ROW, registers=110, shared=1100, code=5000)
    assert list(held().regressions([grown], whole=False)) == []


def test_a_closed_gap_has_to_leave_the_baseline() -> None:
    (said,) = held().regressions([replace(REFUSED, reason="")], whole=False)
    assert "compiles now" in said


def test_what_is_no_longer_compiled_has_to_leave_it() -> None:
    assert not list(held().regressions([ROW], whole=False))
    (said,) = held().regressions([ROW], whole=True)
    assert "_other *bf16: is in the baseline and is no longer compiled" in said


def test_a_part_is_taken_into_what_is_there() -> None:
    found = held()
    found.take([replace(ROW, registers=50)], {}, whole=False)
    assert found.targets["sm_90"][ROW.name]["registers"] == 50
    assert REFUSED.name in found.targets["sm_90"]


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    baseline.write(held(), tmp_path / "b.json")
    assert baseline.read(tmp_path / "b.json") == held()


@pytest.mark.parametrize(
    "text", ["", "{}", '{"compilers": {}, "jobs": {"x": {"sm_90": [1, 2]}}}', '{"compilers": {}, "jobs": [3]}']
)
def test_another_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(BadInput, match="cannot be read as a baseline"):
        baseline.read(tmp_path / "b.json")


_FUNCTIONS = {"sparse_attention": "_attention_token"}


def test_gpus_but_for_gaps_spill_nothing_and_stay_within_their_chips() -> None:
    """What is committed: no configuration spills or is refused, but where an architecture's gaps say so, with their reasons."""
    found = baseline.read()
    for target in GPUS:
        rows = found.targets[target.name]
        assert len(rows) > 50
        known = {_FUNCTIONS[g.operator] for g in GAPS.get(target.name, ()) if not g.expired(date.today())}
        assert {name.split()[0] for name, kept in rows.items() if "reason" in kept or kept["spills"]} == known, (
            target.name
        )
        assert all(kept.get("shared", 0) <= target.shared for kept in rows.values())
        assert any(kept.get("instructions") for kept in rows.values()), target.name


def test_every_target_is_in_the_baseline() -> None:
    found = baseline.read()
    assert set(found.targets) == set(TARGETS)
    reasons = [kept["reason"] for rows in found.targets.values() for kept in rows.values() if "reason" in kept]
    assert all(reasons) and not [r for r in reasons if "/work" in r or "site-packages" in r], (
        "names folders of a machine"
    )


FAULTS = {
    "refused: no": {"reason": "no", "product": False},
    "spills 4 bytes": {"spills": 4},
    "needs 2001 bytes of shared memory, of 2000": {"shared": 2001},
    "multiplies matrices without a matrix instruction": {"instructions": ()},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_chip_cannot_run_well_is_a_fault(fault: str) -> None:
    assert ROW.faults() == ()
    assert replace(ROW, **FAULTS[fault]).faults() == (fault,)
