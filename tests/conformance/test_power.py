"""The suite can fail: every mutant dies, what is right in another way lives, and neither is said of what did not run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from deepport import op as registry
from deepport import ops
from deepport.conformance import grids, power, variants
from deepport.conformance.judge import nulls
from deepport.conformance.mutants import MUTANTS
from deepport.conformance.mutants.habits import habits
from deepport.conformance.mutants.mutant import Mutant, asked
from deepport.conformance.oracle import truth
from deepport.conformance.power import mutant, mutants_for, run_mutant
from deepport.conformance.trial import drawn
from deepport.op import Operator, operator, operators
from deepport.ops.dense import rms_norm_arguments
from deepport.spec import Case, Cost, Tolerance, case, normal

FORWARD = sorted(n for n, o in operators.items() if o.__module__.startswith("deepport.ops"))
DECLARED = FORWARD + [o.backward.name for n in FORWARD if (o := operators[n]).backward]


def written(name: str) -> list[Mutant]:
    """An operator's mutants that are not habits of any kernel."""
    general = {m.name for m in habits(operators[name])}
    return [m for m in mutants_for([name]) if m.name not in general and not m.equivalent]


def test_every_operator_has_mutants_of_its_own() -> None:
    counts = {n: len(written(n)) for n in DECLARED}
    assert len(FORWARD) == 27 and min(counts[n] for n in FORWARD) >= 2
    assert sum(counts[n] > 0 for n in DECLARED if n.endswith("_backward")) >= 3
    assert sum(counts.values()) >= 60


def test_mutants_are_told_apart() -> None:
    assert max(Counter((m.operator, m.name) for m in MUTANTS).values()) == 1
    assert all(m.fault and "\n" not in m.fault for m in MUTANTS)
    assert {m.operator for m in MUTANTS} >= set(DECLARED)


@pytest.mark.parametrize("name", DECLARED)
def test_every_mutant_dies(name: str) -> None:
    """And what is right in another way passes every case."""
    cases = grids.cases(operators[name], "training")
    found = [run_mutant(m, cases) for m in mutants_for([name])]
    survivors = {r.name: (r.status, r.reason) for r in found if r.status not in ("killed", "equivalent")}
    assert found and survivors == {}
    assert all(r.by and r.tried for r in found if r.status == "killed")


@pytest.mark.parametrize("name", FORWARD)
def test_null_kernels_die(name: str) -> None:
    operator = operators[name]
    fates = Counter[str]()
    for found in operator.cases:
        arguments, right = drawn(operator, found), truth(operator, drawn(operator, found))
        stale = truth(operator, drawn(operator, found, seed=1)).yardstick
        fate = nulls(operator, arguments, stale, right)
        assert "survived" not in fate.values(), (found.label, fate)
        fates.update(fate.values())
    assert fates["killed"] > fates["trivial"]


def norm_case(label: str = "one", **given: Any) -> Case:
    parameters = {"shape": (6, 64), "weighted": True, "dtype": torch.float32, **given}
    return Case(label, rms_norm_arguments, parameters)


def of_norm(run: Callable[..., Any], **about: Any) -> Mutant:
    return Mutant("test", "rms_norm", "a test", run, **about)


def test_a_mutant_without_a_fault_survives_and_is_said_to() -> None:
    right = asked(ops.rms_norm, "test", "none", lambda given: {})
    assert run_mutant(right, [norm_case("one"), norm_case("two")]).model_dump(include={"status", "tried"}) == {
        "status": "survived",
        "tried": 2,
    }


def test_what_killed_a_mutant_is_told() -> None:
    found = run_mutant(
        mutant("rms_norm", "weight_plus_one"), [norm_case("flat", weighted=False), norm_case("weighted")]
    )
    assert (found.status, found.tried, found.by) == ("killed", 2, "G2 output 0 rms, operator weighted")


def test_a_right_mutant_that_a_gate_fails_is_a_false_alarm() -> None:
    found = run_mutant(of_norm(lambda x, weight, eps: x * 2, equivalent="it is not"), [norm_case()])
    assert found.status == "error" and "it is right (it is not), but G2" in found.reason


def test_a_mutant_that_breaks_proves_nothing() -> None:
    def broken(*arguments: Any) -> None:
        raise RuntimeError("out of order")

    assert run_mutant(of_norm(broken), [norm_case()]).status == "error"
    assert run_mutant(of_norm(broken, raises=True), [norm_case()]).status == "killed"


def test_a_mutant_that_breaks_on_poison_alone_has_read_it() -> None:
    found = run_mutant(mutant("write_pages_", "writes_padding"), [*ops.write_pages_.cases])
    assert found.status == "killed" and found.by.startswith("G1 reads only what it may")


def test_no_cases_prove_nothing() -> None:
    assert run_mutant(mutant("rms_norm", "weight_plus_one"), []).status == "not_run"


def test_memory_that_is_not_here_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*arguments: Any) -> None:
        raise variants.NotHere("no room")

    monkeypatch.setattr(variants, "far", nowhere)
    cases = [c for c in grids.cases(ops.engram_gather, "inference") if c.variant == "far"]
    found = run_mutant(mutant("engram_gather", "wraps_addresses"), cases)
    assert cases and found.status == "not_run" and "no room" in found.reason


def test_far_memory_kills_what_wraps() -> None:
    for name in ("engram_gather", "write_pages_"):
        cases = [c for c in grids.cases(operators[name], "inference") if c.variant != "far"]
        wrapping = mutant(name, "wraps_addresses")
        assert run_mutant(wrapping, operators[name].cases).status == "survived"
        far = [c for c in grids.cases(operators[name], "inference") if c.variant == "far"]
        assert cases and run_mutant(wrapping, far).status == "killed"


def test_results_are_the_same_again() -> None:
    subjects = [mutant("rms_norm", n) for n in ("rounds_twice", "differs_from_call_to_call", "remembers_an_answer")]
    cases = ops.rms_norm.cases
    assert [run_mutant(m, cases) for m in subjects] == [run_mutant(m, cases) for m in subjects]


def test_an_unknown_mutant_is_named() -> None:
    with pytest.raises(ValueError, match=r"rms_norm has no mutant 'tailless'; there are: .*weight_plus_one"):
        mutant("rms_norm", "tailless")


@pytest.fixture
def third_party() -> Iterator[Operator[..., Any]]:
    """An operator that this package does not declare, and that other tests do not find."""

    def arguments(g: torch.Generator, rows: int, dtype: torch.dtype) -> dict[str, Any]:
        return {"x": normal(g, rows, 64, dtype=dtype)}

    @operator(
        cost=lambda x: Cost(0.0, 0.0),
        cases=lambda: [case(arguments, rows=n, dtype=d) for n in (1, 5) for d in (torch.float32, torch.bfloat16)],
        tolerance=Tolerance("one product, rounded once"),
        fake=lambda x: x.new_empty(x.shape),
    )
    def third_of_a_third_party(x: Tensor) -> Tensor:
        """x / 3, rounded once."""
        return (x.float() / 3).to(x.dtype).contiguous()

    yield third_of_a_third_party
    registry._operators.pop(third_of_a_third_party.name)


def test_a_third_partys_operator_has_the_habits(third_party: Operator[..., Any]) -> None:
    found = {r.name: r.status for r in (run_mutant(m, third_party.cases) for m in mutants_for([third_party.name]))}
    blind = {"ignores_strides", "computes_in_float16"}  # it has no strided and no huge case
    assert {n for n, status in found.items() if status == "survived"} == blind
    assert {n for n, status in found.items() if status == "equivalent"} == {"computes_in_float64"}
    assert len(found) > 10


def test_truths_are_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "_KEPT", 0)
    assert run_mutant(mutant("rms_norm", "weight_plus_one"), [norm_case()]).status == "killed"
