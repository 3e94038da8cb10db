"""Contracts: nothing depends on what is declared unread, and choices are judged as they should be."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

import deepport.ops  # noqa: F401
from deepport.conformance import gates
from deepport.conformance.contract import Contract, contract_of
from deepport.conformance.contracts import CONTRACTS
from deepport.conformance.grids import generated, special
from deepport.conformance.guard import poison
from deepport.conformance.oracle import outputs
from deepport.op import Operator, operators
from deepport.spec import Case

FORWARD = [o for o in operators.values() if not o.name.endswith("_backward")]
CASES = [
    pytest.param(o, c, id=f"{o.name}-{c.grid}-{c.label}")
    for o in FORWARD
    for c in (*o.cases, *generated.cases(o), *special.cases(o))
    if not c.raises
]


def poisoned(arguments: dict[str, Any], masks: dict[str, Tensor]) -> dict[str, Any]:
    found = {n: a.clone() if isinstance(a, Tensor) else a for n, a in arguments.items()}
    for name, where in masks.items():
        assert where.shape == found[name].shape, f"the mask of {name} has another shape"
        poison(found[name], where)
    return found


def differing(left: list[Tensor], right: list[Tensor], free: dict[int, Tensor]) -> list[str]:
    found = [gates.exact(str(i), a, b, free.get(i))[0] for i, (a, b) in enumerate(zip(left, right, strict=True))]
    return [f"output {g.metric}: {g.detail}" for g in found if g.status == "fail"]


def test_every_operator_has_a_contract() -> None:
    assert {o.name for o in FORWARD} == CONTRACTS.keys()


@pytest.mark.parametrize(("operator", "case"), CASES)
def test_what_is_unread_does_not_matter(operator: Operator[..., Any], case: Case) -> None:
    contract, arguments = contract_of(operator.name), operator.defaults | case.arguments()
    clean = outputs(operator, operator.reference, arguments)
    dirty = outputs(operator, operator.reference, poisoned(arguments, contract.unread(arguments)))
    assert not differing(dirty, clean, contract.free(arguments))


MASKED = {
    "block_linear": (),
    "dequantize": (),
    "engram_gate": (),
    "linear": (),
    "mhc_head": (),
    "mhc_post": (),
    "mhc_pre": (),
    "quantize": (),
    "rms_norm": (),
    "rotary": (),
    "rotary_angles": (),
    "swiglu": (),
    "compress_kv": ("gate", "kv", "position_bias", "positions", "state"),
    "compress_kv_": ("gate", "kv", "position_bias", "positions", "state"),
    "engram_conv": ("gated",),
    "engram_conv_": ("gated",),
    "engram_gather": ("rows", "scale"),
    "engram_hash": ("dead", "history", "ids"),
    "grouped_linear": ("scale", "w", "x"),
    "index_topk": ("pages", "positions", "q", "table", "weights"),
    "moe_combine": ("inverse", "weights", "y"),
    "moe_dispatch": ("x",),
    "moe_experts": ("w13", "w13_scale", "w2", "w2_scale", "weights", "x"),
    "route": ("table",),
    "sparse_attention": (
        "compressed_pages",
        "compressed_table",
        "indices",
        "positions",
        "q",
        "window_pages",
        "window_table",
    ),
    "write_pages": ("pages", "positions", "table", "values"),
    "write_pages_": ("pages", "positions", "table", "values"),
}
"""The arguments of which some case has a part that is not to be read."""


@pytest.mark.parametrize("operator", FORWARD, ids=lambda o: o.name)
def test_what_is_unread_is_not_nothing(operator: Operator[..., Any]) -> None:
    contract, found = contract_of(operator.name), set()
    for case in (*operator.cases, *generated.cases(operator)):
        masks = contract.unread(operator.defaults | case.arguments())
        found |= {n for n, where in masks.items() if where.any()}
    assert found == set(MASKED[operator.name])


def test_a_read_of_padding_is_seen() -> None:
    """Poison reaches the result of a reference that looks one position too far back."""
    operator = operators["sparse_attention"]
    (case,) = [
        c for c in operator.cases if c.label == "lengths=1x1x1,first=11x12x63,scope=window,sink=True,dtype=float32"
    ]
    arguments = case.arguments()
    dirty = poisoned(arguments, contract_of(operator.name).unread(arguments))
    results = [outputs(operator, operator.reference, a | {"window_size": 13}) for a in (arguments, dirty)]
    assert differing(results[1], results[0], {})
    assert not results[1][0].isfinite().all()


@pytest.mark.parametrize("name", ["rms_norm", "rotary", "engram_gather", "moe_combine"])
def test_references_compute_rows_by_themselves(name: str) -> None:
    operator, contract = operators[name], contract_of(name)
    for case in (*operator.cases, *generated.cases(operator)):
        arguments = operator.defaults | case.arguments()
        (whole,) = outputs(operator, operator.reference, arguments)
        for row in range(arguments[contract.rows[0]].shape[0]):
            alone = {n: a[row : row + 1] if n in contract.rows else a for n, a in arguments.items()}
            (found,) = outputs(operator, operator.reference, alone)
            assert not differing([found[0]], [whole[row]], {})


def test_every_operator_with_rows_is_tested_for_them() -> None:
    assert {n for n, c in CONTRACTS.items() if c.rows} == {
        "rms_norm",
        "rotary",
        "rotary_angles",
        "engram_gather",
        "moe_combine",
    }


def test_a_sequence_without_tokens_keeps_its_state() -> None:
    contract = contract_of("compress_kv_")
    (case,) = [
        c for c in operators["compress_kv_"].cases if "lengths=0,first=2,ratio=4,overlap=True,dtype=float32" in c.label
    ]
    arguments = case.arguments()
    assert not contract.unread(arguments)["state"].any()
    assert not contract.free(arguments)[3].any()


def test_a_contract_without_knowledge_reads_everything() -> None:
    contract: Contract = contract_of("an operator of somebody else's")
    assert contract.unread({}) == {}
    assert contract.free({}) == {}
    assert contract.deterministic
