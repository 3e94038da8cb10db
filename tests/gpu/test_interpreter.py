"""The interpreter put right: conversions, products and refusals; and what a guard sees that the interpreter does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deepport_triton.guard import KernelFault, guarded
from deepport_triton.interpreter import correct

correct()

STORED = {
    torch.bfloat16: tl.bfloat16,
    torch.float8_e4m3fn: tl.float8e4nv,
    torch.float8_e5m2: tl.float8e5,
    torch.float16: tl.float16,
}


@triton.jit
def convert(x, y, n: tl.constexpr):
    i = tl.arange(0, n)
    tl.store(y + i, tl.load(x + i).to(y.dtype.element_ty))


@triton.jit
def multiply(a, b, c, n: tl.constexpr, precision: tl.constexpr):
    i = tl.arange(0, n)[:, None] * n + tl.arange(0, n)[None, :]
    tl.store(c + i, tl.dot(tl.load(a + i), tl.load(b + i), input_precision=precision))


@triton.jit
def add(x, y, n: tl.constexpr):
    i = tl.arange(0, n)
    tl.store(y + i, tl.load(x + i) + tl.load(x + i))


@pytest.mark.parametrize("dtype", STORED)
@settings(deadline=None)  # the first call of a kernel rewrites its source
@given(st.lists(st.floats(width=32, min_value=-400, max_value=400), min_size=1, max_size=16))
def test_conversions_round_as_torch_does(dtype: torch.dtype, numbers: list[float]) -> None:
    x = torch.tensor((numbers * 16)[:16])
    narrow, back = torch.empty(16, dtype=dtype), torch.empty(16)
    convert[(1,)](x, narrow, 16)
    convert[(1,)](narrow, back, 16)
    assert torch.equal(narrow.view(torch.uint8), x.to(dtype).view(torch.uint8))
    assert torch.equal(back, x.to(dtype).float())


@pytest.mark.parametrize("dtype", STORED)
def test_products_are_of_the_numbers(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(16, 16, generator=g).to(dtype) for _ in range(2))
    c = torch.empty(16, 16)
    multiply[(1,)](a, b, c, 16, "tf32")
    torch.testing.assert_close(c, a.float() @ b.float(), rtol=1e-5, atol=1e-5)


def test_a_product_of_floats_asks_for_all_their_bits() -> None:
    a, c = torch.randn(16, 16), torch.empty(16, 16)
    with pytest.raises(Exception, match="input_precision"):
        multiply[(1,)](a, a, c, 16, "tf32")
    multiply[(1,)](a, a, c, 16, "ieee")
    torch.testing.assert_close(c, a @ a)


def test_equal_columns_have_equal_products() -> None:
    """By a library's product in float32 they have not: its kernels round by the place in the block."""
    a, c = torch.randn(32, 32), torch.empty(32, 32)
    multiply[(1,)](a, torch.randn(32, 1).repeat(1, 32), c, 32, "ieee")
    assert torch.equal(c, c[:, :1].expand(32, 32))


def test_arithmetic_on_bits_is_refused() -> None:
    with pytest.raises(Exception, match="bf16 in the interpreter: convert it to float32 first"):
        add[(1,)](torch.ones(16, dtype=torch.bfloat16), torch.empty(16, dtype=torch.bfloat16), 16)


@triton.jit
def copy(x, y, n, step: tl.constexpr, block: tl.constexpr, masked: tl.constexpr):
    i = tl.program_id(0) * step + tl.arange(0, block)
    mask = i < n if masked else i >= 0
    tl.store(y + i, tl.load(x + i, mask=mask), mask=mask)


@triton.jit
def twice(x, y, n: tl.constexpr):
    i = tl.arange(0, n)
    tl.store(y + i // 2, tl.load(x + i))


@triton.jit
def shifted(x, n: tl.constexpr):
    i = tl.program_id(0) * n + tl.arange(0, n)
    tl.store(x + i, tl.load(x + i + n))


def launch(kernel: Any, grid: int, *arguments: Any) -> None:
    tensors = [(f"argument {i}", a) for i, a in enumerate(arguments) if isinstance(a, Tensor)]
    with guarded(tensors):
        kernel[(grid,)](*arguments)


def test_what_is_right_is_not_refused() -> None:
    x, y = torch.arange(13.0), torch.empty(13)
    launch(copy, 2, x, y, 13, 8, 8, True)
    assert torch.equal(x, y)


FAULTS: dict[str, tuple[str, Callable[[Tensor, Tensor], None]]] = {
    "a tail": (
        "loads outside of its 52 bytes: argument 0, byte 52",
        lambda x, y: launch(copy, 2, x, y, 13, 8, 8, False),
    ),
    "a race": ("stores to where another program", lambda x, y: launch(copy, 2, x, y, 13, 4, 8, True)),
    "one store": ("stores to an address twice", lambda x, y: launch(twice, 1, x, y, 8)),
    "a neighbour's": ("stores to where another program loads", lambda x, y: launch(shifted, 2, x, 4)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen(fault: str) -> None:
    told, run = FAULTS[fault]
    with pytest.raises(Exception, match=told):
        run(torch.arange(13.0), torch.empty(13))


def test_a_fault_is_one_line_with_its_program() -> None:
    with pytest.raises(Exception, match=r"KernelFault\('program \(1, 0, 0\) loads outside") as raised:
        launch(copy, 2, torch.arange(13.0), torch.empty(13), 13, 8, 8, False)
    assert isinstance(raised.value.__cause__, KernelFault)
