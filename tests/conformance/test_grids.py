"""Grids: enough of every kind, the same in every process, and made again from a record alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

import deepport.ops  # noqa: F401
from deepport.conformance import grids
from deepport.conformance.contract import contract_of
from deepport.conformance.grids import captured, changes, generated, gradients, special
from deepport.conformance.oracle import outputs, tensors
from deepport.conformance.result import CaseKey
from deepport.errors import BadInput
from deepport.op import Operator, operators
from deepport.spec import Case
from deepport.spec import case as made

ALL = list(operators.values())
FORWARD = [o for o in ALL if not o.name.endswith("_backward")]
BACKWARD = [o for o in ALL if o.name.endswith("_backward")]
by_name = pytest.mark.parametrize("operator", ALL, ids=lambda o: o.name)
by_forward = pytest.mark.parametrize("operator", FORWARD, ids=lambda o: o.name)


def through_json(key: CaseKey) -> CaseKey:
    return CaseKey.model_validate(json.loads(key.model_dump_json()))


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    """The same names, bits, shapes, dtypes and values."""
    mine, theirs = tensors(left), tensors(right)
    bits = [
        torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
        for a, b in zip(mine, theirs, strict=True)
    ]
    plain = [{n: repr(v) for n, v in a.items() if not isinstance(v, (Tensor, list))} for a in (left, right)]
    dtypes = [[(t.dtype, t.shape) for t in found] for found in (mine, theirs)]
    return all(bits) and plain[0] == plain[1] and dtypes[0] == dtypes[1] and left.keys() == right.keys()


@by_forward
def test_every_grid_has_cases(operator: Operator[..., Any]) -> None:
    found = Counter(c.grid for c in grids.cases(operator, "inference"))
    models = {"engram"} if operator.name.startswith("engram") else {"v4-flash", "v4-pro"}
    assert found.keys() == {"operator", "generated", "special", *models}
    assert found["operator"] >= 5
    assert found["generated"] == generated.COUNT
    assert found["special"] >= 4
    assert all(found[m] >= 2 for m in models)


@pytest.mark.parametrize("operator", BACKWARD, ids=lambda o: o.name)
def test_gradients_are_for_training(operator: Operator[..., Any]) -> None:
    assert grids.cases(operator, "bring-up") == grids.cases(operator, "inference") == []
    assert {c.grid for c in grids.cases(operator, "training")} == {"gradients"}


@by_forward
def test_each_profile_asks_more(operator: Operator[..., Any]) -> None:
    bring_up, inference, training = (grids.cases(operator, p) for p in ("bring-up", "inference", "training"))
    assert bring_up == operator.cases
    assert inference[: len(bring_up)] == bring_up
    assert len(bring_up) < len(inference)
    assert inference == training


@by_name
def test_labels_are_unique(operator: Operator[..., Any]) -> None:
    found = Counter((c.grid, c.label) for c in grids.cases(operator, "training"))
    assert max(found.values()) == 1


@by_name
def test_a_case_is_found_from_its_record_alone(operator: Operator[..., Any]) -> None:
    for case in grids.cases(operator, "training"):
        key = through_json(grids.key(case, seed=3))
        assert key.seed == 3
        assert repr(grids.find(operator, key)) == repr(case)  # by representation, in which NaN is NaN


@by_name
def test_a_found_case_draws_the_same_arguments(operator: Operator[..., Any]) -> None:
    for case in grids.cases(operator, "training"):
        if case.grid not in captured.MODELS:
            again = grids.find(operator, through_json(grids.key(case)))
            assert same(again.arguments(1), case.arguments(1)), case.label


@by_name
def test_another_seed_draws_other_arguments(operator: Operator[..., Any]) -> None:
    case = max(
        (c for c in grids.cases(operator, "training") if c.grid in ("operator", "gradients")),
        key=lambda c: sum(t.numel() for t in tensors(c.arguments())),
    )
    assert not same(case.arguments(0), case.arguments(1))


def test_no_builder_has_two_names() -> None:
    for operator in FORWARD:
        names = [changes.name_of(b) for b in {c.builder for c in operator.cases}]
        assert len(names) == len(set(names))


@by_forward
def test_refusals_are_what_the_reference_does(operator: Operator[..., Any]) -> None:
    for case in special.cases(operator):
        if case.raises:
            assert grids.find(operator, grids.key(case)).raises == case.raises
            with pytest.raises((ValueError, IndexError)) as error:
                operator.reference(**case.arguments())
            assert error.type.__name__ == case.raises


@by_forward
def test_references_choose_rightly_everywhere(operator: Operator[..., Any]) -> None:
    selection = contract_of(operator.name).selection
    for case in [*generated.cases(operator), *special.cases(operator)] if selection else []:
        arguments = operator.defaults | case.arguments()
        if selection and not case.raises:
            found, _ = selection(arguments, outputs(operator, operator.reference, arguments))
            assert not [g for g in found if g.status == "fail"], case.label


@by_forward
def test_magnitudes_stay_within_float32(operator: Operator[..., Any]) -> None:
    """What is huge going in is finite coming out, and what is tiny does not vanish."""
    for case in special.cases(operator):
        found = outputs(operator, operator.reference, operator.defaults | case.arguments()) if not case.raises else []
        floats = [t.float() for t in found if t.dtype.is_floating_point and t.element_size() > 1]
        if case.label.startswith("huge"):
            assert all(not t.isnan().any() and not t.isposinf().any() for t in floats)
        if case.label.startswith("tiny"):
            assert all(t.any() for t in floats if t.numel())


def test_gradients_are_of_what_has_one() -> None:
    (case,) = [
        c for c in gradients.cases(operators["sparse_attention_backward"]) if c.label.startswith("lengths=13,first=9")
    ]
    arguments = case.arguments()
    o, lse = arguments["grads"]
    assert o.shape == arguments["q"].shape
    assert lse is None
    assert arguments["output_mask"] == [True, True, True, False]  # it has no sink
    found = operators["sparse_attention_backward"].reference(*arguments.values())
    assert [t.shape for t in found] == [arguments[n].shape for n in ("q", "window_pages", "compressed_pages")]


def test_quantised_weights_have_no_gradient() -> None:
    masks = {
        c.arguments()["format"]: c.arguments()["output_mask"] for c in gradients.cases(operators["linear_backward"])
    }
    assert masks["plain"] == [True, True]
    assert masks["mxfp4"] == [True, False]
    assert "mxfp4" not in {c.arguments()["format"] for c in gradients.cases(operators["engram_gather_backward"])}


_ELSEWHERE = """
import sys
import deepport.ops
from deepport.conformance import grids
from deepport.op import operators
for operator in list(operators.values()):
    for case in grids.cases(operator, "bring-up"):
        grids.find(operator, grids.key(case))
assert "hypothesis" not in sys.modules, "the bring-up profile imports hypothesis"
from deepport.conformance.grids import generated
print("\\n".join(c.label for n in ("linear", "sparse_attention") for c in generated.cases(operators[n])))
"""


def test_generated_cases_are_the_same_in_another_process() -> None:
    """Where other modules are loaded, too; and until they are asked for, hypothesis is not."""
    found = subprocess.run([sys.executable, "-c", _ELSEWHERE], capture_output=True, text=True, check=True).stdout
    here = [c.label for n in ("linear", "sparse_attention") for c in generated.cases(operators[n])]
    assert found.split() == here


def test_generated_cases_reach_the_edges() -> None:
    labels = [c for o in FORWARD for c in generated.cases(o)]
    assert any(c.parameters.get("tokens") == 0 for c in labels)
    assert any(c.parameters.get("tokens") == 1 for c in labels)
    assert any(0 in c.parameters.get("lengths", ()) for c in labels)
    assert any(1 in c.parameters.get("lengths", ()) and len(c.parameters["lengths"]) > 1 for c in labels)


NORM = {"shape": [3, 8], "weighted": True, "dtype": "torch.float32"}
NESTED = {"operator": "rms_norm", "builder": "dense.rms_norm_arguments", "given": NORM}


@pytest.mark.parametrize(
    ("builder", "parameters", "text"),
    [
        ("os.system", {"command": "true"}, "no builder is called 'os.system'; there are: changes.changed, "),
        ("dense.linear_arguments", {}, "no builder is called 'dense.linear_arguments'"),
        ("dense.rms_norm_arguments", {"shape": [3, 8]}, "missing a required argument"),
        ("dense.rms_norm_arguments", {**NORM, "file": "/etc/passwd"}, "unexpected keyword argument 'file'"),
        ("dense.rms_norm_arguments", {**NORM, "weighted": {"float": "x"}}, "could not convert"),
        ("changes.changed", {**NESTED, "builder": "os.system", "changes": []}, "no builder called 'os.system'"),
        (
            "changes.changed",
            {**NESTED, "operator": "linear", "changes": []},
            "arguments of 'linear', not of 'rms_norm'",
        ),
        ("changes.changed", {**NESTED, "given": {"x": 1}, "changes": []}, "missing a required argument"),
        ("changes.refused", {**NESTED, "fault": "nothing"}, "'nothing'"),
        ("gradients.gradient", {**NESTED, "grads": [True]}, "no builder is called 'gradients.gradient'"),
    ],
)
def test_a_strangers_record_can_only_draw(builder: str, parameters: dict[str, Any], text: str) -> None:
    key = CaseKey(grid="operator", label="a stranger's", builder=builder, parameters=parameters)
    with pytest.raises(BadInput, match='rms_norm, case "a stranger\'s": ') as error:
        grids.find(operators["rms_norm"], key)
    assert text in str(error.value)


@pytest.mark.parametrize("change", [("x", "eval", "1"), ("y", "fill", 0.0)])
def test_a_strange_change_is_refused(change: tuple[str, str, Any]) -> None:
    given = {
        "operator": "rms_norm",
        "builder": "dense.rms_norm_arguments",
        "given": {**NORM, "shape": (3, 8), "dtype": torch.float32},
    }
    with pytest.raises(BadInput, match="rms_norm: a case cannot"):
        Case("strange", changes.changed, {**given, "changes": (change,)}).arguments()


def test_numbers_that_json_does_not_know() -> None:
    def builder(g: torch.Generator, value: Any) -> dict[str, Any]:
        return {"value": value}

    key = through_json(grids.key(made(builder, value=(float("nan"), (float("-inf"), 1.5), None, torch.int8, True))))
    assert key.parameters == {"value": [{"float": "nan"}, [{"float": "-inf"}, 1.5], None, "torch.int8", True]}
