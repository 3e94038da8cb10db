"""Gradients of residual streams in C++, through autograd as a model asks for them, against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracles.compare import relative, same_bits
from sessions import References
from torch import Tensor

from deepport.conformance.oracle import listed
from deepport.kernel import Kernel
from deepport.op import operators
from deepport.ops.mhc import collapse_arguments, post_arguments
from deepport.policy import Session
from deepport.record import Record
from deepport.spec import FLOATS
from deepport_cpu.kernels.mhc_backward import KERNELS

NATIVE: dict[str, Kernel] = {k.operator: k for k in KERNELS}
FORWARD = [name.removesuffix("_backward") for name in NATIVE]

MARGIN = 2
"""On the reference's own error. The worst measured is 1.5, at level scalar, which rounds products before it adds them; with
AVX-512 it is 1.0."""

FEW = 1e-5
"""Of the largest number, for scale and base: of so few, each a sum over all tokens, errors are too random for a ratio. The worst
measured is 2.7e-6, where a sum nearly cancels."""


def drawn(name: str, tokens: int, n: int, width: int, dtype: torch.dtype) -> dict[str, Any]:
    g = torch.Generator().manual_seed(tokens + n + width)
    if name == "mhc_post":
        return post_arguments(g, tokens, n, width, dtype)
    return collapse_arguments(g, tokens, n, width, name.removeprefix("mhc_"), dtype)


def weights(name: str, arguments: dict[str, Any]) -> list[Tensor]:
    """A gradient for every result, in its dtype."""
    g = torch.Generator().manual_seed(1)
    return [torch.randn(r.shape, generator=g).to(r.dtype) for r in listed(operators[name].reference(**arguments))]


def slopes(name: str, arguments: dict[str, Any], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Gradients by autograd; in `dtype` from the same numbers, if there is one."""
    given = {n: arguments[n] for n in operators[name].differentiable}
    leaves = {n: t.to(dtype or t.dtype, copy=True).requires_grad_() for n, t in given.items()}
    results = listed(operators[name](**{**arguments, **leaves}))
    torch.autograd.backward(results, [w.to(r.dtype) for w, r in zip(weights(name, arguments), results, strict=True)])
    return {n: t.grad for n, t in leaves.items() if t.grad is not None}


def error(found: Tensor, truth: Tensor) -> float:
    return float((found.double() - truth).square().mean().sqrt())


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("tokens", "n", "width"), [(300, 4, 128), (77, 2, 100), (60, 6, 50)])
@pytest.mark.parametrize("name", FORWARD)
def test_no_further_from_float64_than_the_reference(
    name: str, tokens: int, n: int, width: int, dtype: torch.dtype
) -> None:
    arguments, record = drawn(name, tokens, n, width, dtype), Record()
    with Session(fallback="error", record=record):
        found = slopes(name, arguments)
    with References():
        reference, truth = slopes(name, arguments), slopes(name, arguments, torch.float64)
    assert [(r.operator, r.implementation) for r in record.rows] == [
        (name, "cpu/native"),
        (f"{name}_backward", "cpu/native"),
    ]
    assert list(found) == list(operators[name].differentiable)
    for argument, gradient in found.items():
        assert gradient.dtype == arguments[argument].dtype
        if argument in ("scale", "base"):
            assert relative(gradient, truth[argument]) < FEW
        else:
            assert error(gradient, truth[argument]) <= MARGIN * error(reference[argument], truth[argument]), argument


def called(name: str, grads: list[Tensor | None], mask: list[bool], arguments: dict[str, Any]) -> list[Tensor]:
    """The backward operator's answer, of a kernel."""
    with Session(fallback="error"):
        return listed(operators[f"{name}_backward"](grads, mask, *arguments.values()))


@pytest.mark.parametrize("name", FORWARD)
def test_what_is_masked_is_left_out(name: str) -> None:
    arguments = drawn(name, 9, 4, 33, torch.bfloat16)
    grads: list[Tensor | None] = [*weights(name, arguments)]
    every = called(name, grads, [True] * 4, arguments)
    for i in range(4):
        (one,) = called(name, grads, [j == i for j in range(4)], arguments)
        assert same_bits(one, every[i]) and one.is_contiguous()
    assert called(name, grads, [False] * 4, arguments) == []


@pytest.mark.parametrize("name", FORWARD)
def test_a_gradient_that_is_none_is_zero(name: str) -> None:
    arguments = drawn(name, 9, 4, 33, torch.float32)
    given = weights(name, arguments)
    for left in range(len(given) + 1):  # the last time, none is
        grads = [w if i == left else None for i, w in enumerate(given)]
        zeros = [w if i == left else torch.zeros_like(w) for i, w in enumerate(given)]
        found = called(name, grads, [True] * 4, arguments)
        for gradient, same in zip(found, called(name, [*zeros], [True] * 4, arguments), strict=True):
            assert torch.equal(gradient, same)
            assert left < len(given) or not gradient.any()


@pytest.mark.parametrize("name", FORWARD)
def test_no_tokens_give_zeros(name: str) -> None:
    arguments = drawn(name, 0, 4, 16, torch.bfloat16)
    found = called(name, [*weights(name, arguments)], [True] * 4, arguments)
    for argument, gradient in zip(operators[name].differentiable, found, strict=True):
        assert gradient.shape == arguments[argument].shape and not gradient.any()


def refusal(name: str, grads: list[Tensor | None], mask: list[bool], arguments: dict[str, Any]) -> str:
    """Why the kernel does not take a call; "" if it does."""
    return (
        NATIVE[f"{name}_backward"]
        .supports(operators[f"{name}_backward"].signature((grads, mask, *arguments.values())))
        .reason
    )


@pytest.mark.parametrize("name", FORWARD)
def test_refuses_what_the_kernel_does_not_take(name: str) -> None:
    arguments, mask = drawn(name, 9, 4, 33, torch.float32), [True] * 4
    first, *rest = weights(name, arguments)
    of_first = "d_mixed" if name == "mhc_post" else "d_y"
    wide = {n: v.double() if isinstance(v, Tensor) else v for n, v in arguments.items()}
    assert refusal(name, [first, *rest], mask, arguments) == ""
    assert f"{of_first} is bfloat16; the kernel takes one of them" in refusal(
        name, [first.bfloat16(), *rest], mask, arguments
    )
    assert f"{of_first} is [10" in refusal(name, [torch.cat([first, first[:1]]), *rest], mask, arguments)
    assert "is float64; the kernel takes" in refusal(name, [first, *rest], mask, wide)
    assert "grads has" in refusal(name, [first, *rest, None], mask, arguments)
    assert refusal(name, [first, *rest], mask[1:], arguments) == "output_mask has 3 entries; the kernel takes 4"


def test_refuses_coefficients_gradients_of_other_dtypes_and_shapes() -> None:
    arguments = drawn("mhc_pre", 9, 4, 33, torch.bfloat16)
    y, post, comb = weights("mhc_pre", arguments)
    assert refusal("mhc_pre", [y, post.bfloat16(), comb], [True] * 4, arguments).startswith("d_post is bfloat16")
    assert refusal("mhc_pre", [None, None, comb[:, :3]], [True] * 4, arguments).startswith("d_comb is [9, 3, 4]")
