"""Every operator, over all its cases: what torch requires of a custom operator."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import deepport.ops  # noqa: F401
from deepport.op import Operator, operators
from deepport.policy import Session
from deepport.record import Record
from deepport.spec import Case

FLOAT8 = {torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e8m0fnu}
DECLARED = [o for o in operators.values() if not o.name.endswith("_backward")]
CASES = [pytest.param(o, c, id=f"{o.name}-{c.label}") for o in DECLARED for c in o.cases]


def gradient_arguments(operator: Operator[..., Any], case: Case) -> list[Any]:
    """A case's arguments, those with a gradient as leaves that require one."""
    arguments = case.arguments()
    for name in operator.differentiable:
        if isinstance(tensor := arguments[name], Tensor) and tensor.is_floating_point() and tensor.element_size() > 1:
            tensor.requires_grad_()
    return [arguments[name] for name in operator.parameters]


def outputs(operator: Operator[..., Any], case: Case, arguments: dict[str, Any] | None = None) -> list[Tensor]:
    result = operator(**(arguments or case.arguments()))
    return [] if result is None else [result] if isinstance(result, Tensor) else list(result)


def same_bytes(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


@pytest.mark.parametrize(("operator", "case"), CASES)
def test_opcheck(operator: Operator[..., Any], case: Case, cpu_kernels: Callable[..., None]) -> None:
    cpu_kernels()  # what an operator leaves open, its reference writes all the same: opcheck compares it
    arguments = gradient_arguments(operator, case)
    # torch's schema test compares arguments before and after with arithmetic that float8 tensors do not have;
    # test_arguments_are_unchanged compares their bytes.
    eight_bit = any(isinstance(a, Tensor) and a.dtype in FLOAT8 for a in (*arguments, *outputs(operator, case)))
    checks = ["test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
    torch.library.opcheck(operator.overload, tuple(arguments), test_utils=checks + ["test_schema"] * (not eight_bit))


@pytest.mark.parametrize(("operator", "case"), CASES)
def test_arguments_are_unchanged(operator: Operator[..., Any], case: Case) -> None:
    arguments, untouched = case.arguments(), case.arguments()
    results = {r.untyped_storage().data_ptr() for r in outputs(operator, case, arguments) if r.numel()}
    for name in operator.parameters:
        if isinstance(tensor := arguments[name], Tensor) and name not in operator.mutates:
            assert same_bytes(tensor, untouched[name]), f"{operator.name} writes to {name}"
            assert tensor.untyped_storage().data_ptr() not in results, f"{operator.name} returns a view of {name}"


@pytest.mark.parametrize(("operator", "case"), CASES)
def test_cost_of_a_call_as_the_dispatcher_passes_it(operator: Operator[..., Any], case: Case) -> None:
    """Trailing arguments that equal their default do not arrive."""
    record = Record()
    with Session(record=record):
        operator(**case.arguments())
    (row,) = [r for r in record.rows if r.operator == operator.name]
    assert row.flops >= 0
    assert row.bytes >= 0


def directly(operator: Operator[..., Any], arguments: list[Any]) -> list[Tensor]:
    result = operator.reference(*arguments)
    return list(result) if isinstance(result, tuple) else [result]


@pytest.mark.parametrize(("operator", "case"), [p for p in CASES if p.values[0].differentiable])
def test_gradient_is_autograd_through_the_reference(
    operator: Operator[..., Any], case: Case, cpu_kernels: Callable[..., None]
) -> None:
    """Compared bit for bit, so that a gradient of zeros, or none, cannot pass for one; kernels of gradients sum otherwise."""
    cpu_kernels()
    found = []
    for run in (lambda a: _listed(operator(*a)), lambda a: directly(operator, a)):
        arguments = gradient_arguments(operator, case)
        outputs = [o for o in run(arguments) if o.requires_grad and o.is_floating_point()]
        g = torch.Generator().manual_seed(1)
        loss = sum(((o * torch.randn(o.shape, generator=g)).sum() for o in outputs), torch.zeros(()))
        leaves = [a for a in arguments if isinstance(a, Tensor) and a.requires_grad]
        grads = torch.autograd.grad(loss, leaves, allow_unused=True) if loss.requires_grad else [None] * len(leaves)
        found.append([torch.zeros_like(a) if g is None else g for a, g in zip(leaves, grads, strict=True)])
    assert all(torch.equal(ours, oracle) for ours, oracle in zip(*found, strict=True))


def _listed(result: Any) -> list[Tensor]:
    return list(result) if isinstance(result, (tuple, list)) else [result]
