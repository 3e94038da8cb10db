"""An implementation's outputs before the gates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from deepport.conformance import gates
from deepport.conformance.contract import contract_of
from deepport.conformance.guard import poison
from deepport.conformance.oracle import Arguments, Truth, sensitivity, tensors, truth
from deepport.conformance.result import Gate
from deepport.op import Operator
from deepport.spec import Tolerance

Fate = Literal["killed", "survived", "trivial"]


def judge(operator: Operator[..., Any], arguments: Arguments, got: list[Tensor], found: Truth) -> list[Gate]:
    """G0, G2-G5 on outputs of the right shapes and dtypes: one list, in the order of the outputs."""
    contract = contract_of(operator.name)
    free = contract.free(arguments)
    selected: list[Gate] = []
    if contract.selection is not None:
        selected, given = contract.selection(arguments, got)
        if any(g.status == "fail" for g in selected):
            return selected
        if given != arguments:
            arguments, found = given, truth(operator, given)
    judged = [g for i, t in enumerate(got) for g in _output(operator, arguments, i, t, found, free.get(i))]
    return selected + judged


def _output(
    operator: Operator[..., Any], arguments: Arguments, index: int, got: Tensor, found: Truth, free: Tensor | None
) -> list[Gate]:
    name, oracle, yardstick = output_name(operator, index), found.oracle[index], found.yardstick[index]
    if not got.numel():
        return []
    if operator.tolerance.exact:
        return gates.exact(name, got, oracle, free)
    if got.dtype.is_floating_point:
        forward = not operator.name.endswith("_backward")
        least = _least(operator, arguments, index, oracle, got)
        return gates.numeric(name, got, oracle, yardstick, operator.tolerance, free, own_rows=forward, least=least)
    return [] if contract_of(operator.name).selection is not None else gates.exact(name, got, yardstick, free)


def _least(operator: Operator[..., Any], arguments: Arguments, index: int, oracle: Tensor, got: Tensor) -> float:
    """What the yardstick's error counts as at least: something only where it cannot be measured."""
    if got.numel() >= gates.ENOUGH or gates.order_of(operator.tolerance, got.dtype) == 1.0:
        return 0.0
    return sensitivity(operator, arguments, index, oracle)


def output_name(operator: Operator[..., Any], index: int) -> str:
    """`output 0`, or the name of the argument that was written to."""
    returned = len(operator.overload._schema.returns)
    if operator.name.endswith("_backward"):
        return f"gradient {index}"
    return f"output {index}" if index < returned else operator.mutates[index - returned]


def itself(judged: Sequence[Gate]) -> list[Gate]:
    """What a reference's gates read where it would be compared with itself."""
    return [
        Gate(gate=g.gate, metric=g.metric, status="not applicable", detail="the reference is the definition")
        for g in judged
    ]


def nulls(
    operator: Operator[..., Any], arguments: Arguments, stale: list[Tensor] | None, found: Truth
) -> dict[str, Fate]:
    """Whether the gates see kernels that compute nothing. `stale`: the right answer to another draw, where there is one."""
    fakes = {
        "zeros": [torch.zeros_like(t) for t in found.yardstick],
        "NaN": [_filled(t) for t in found.yardstick],
        "input": [_copied(t, tensors(dict(arguments))) for t in found.yardstick],
    } | ({} if stale is None else {"stale": stale})
    return {name: _fate(operator, arguments, fake, found) for name, fake in fakes.items()}


def _fate(operator: Operator[..., Any], arguments: Arguments, fake: list[Tensor], found: Truth) -> Fate:
    free = contract_of(operator.name).free(arguments)
    pairs = enumerate(zip(fake, found.yardstick, strict=True))
    if all(_right(f, y, free.get(i), operator.tolerance) for i, (f, y) in pairs):
        return "trivial"
    seen = any(g.status == "fail" for g in judge(operator, arguments, fake, found))
    return "killed" if seen else "survived"


def _right(fake: Tensor, right: Tensor, free: Tensor | None, tolerance: Tolerance) -> bool:
    """Equal, or within a few roundings: any two draws of a 1 x 1 normalisation are almost 1."""
    if not right.numel() or gates.exact("", fake, right, free)[0].status == "pass":
        return True
    if right.element_size() == 1 or not right.dtype.is_floating_point:
        return False
    mine, theirs = (t.double() if free is None else t.double()[~free] for t in (fake, right))
    if not bool((mine.isfinite() & theirs.isfinite()).all()):
        return False
    roundings = 4 * gates.order_of(tolerance, right.dtype)
    return bool((mine - theirs).abs().max() <= roundings * gates.spacing(right.dtype, float(theirs.abs().max())))


def _filled(like: Tensor) -> Tensor:
    """NaN, or the integer that uninitialised memory might hold."""
    found = torch.zeros_like(like)
    poison(found, torch.ones_like(found, dtype=torch.bool))
    return found


def _copied(like: Tensor, inputs: list[Tensor]) -> Tensor:
    """The first input of the same kind, repeated to the output's size."""
    kind = like.dtype.is_floating_point
    source = next((t for t in inputs if t.dtype.is_floating_point == kind and t.numel() and t.element_size() > 1), None)
    if source is None or not like.numel():
        return torch.zeros_like(like)
    flat = source.flatten()
    repeated = flat.repeat(-(-like.numel() // flat.numel()))[: like.numel()]
    return repeated.view(like.shape).to(like.dtype)
