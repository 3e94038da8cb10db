"""Guarded memory keeps what it holds, starts as poison, and tells who wrote beside it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deepport.conformance import guard as guards
from deepport.conformance.gates import bits
from deepport.conformance.guard import MARGIN, Allocations, Guard, padded_strides, poison

DTYPES = (
    torch.float32,
    torch.bfloat16,
    torch.float64,
    torch.float8_e4m3fn,
    torch.int8,
    torch.int32,
    torch.int64,
    torch.bool,
)


def filled(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.arange(torch.Size(shape).numel()).view(shape).remainder(2).float().to(dtype)


def element_at(t: Tensor, offset: int) -> Tensor:
    """The element `offset` behind the tensor's first, wherever that is."""
    return t.as_strided((1,), (1,), t.storage_offset() + offset)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 5), max_size=4), st.sampled_from(DTYPES), st.booleans())
def test_a_placed_tensor_is_the_same(shape: list[int], dtype: torch.dtype, strided: bool) -> None:
    guard, original = Guard(), filled(dtype, *shape)
    placed = guard.place("x", original, padded_strides(original) if strided else None)
    assert placed.shape == original.shape and placed.dtype == dtype
    assert torch.equal(bits(placed), bits(original))
    assert placed.data_ptr() != original.data_ptr() or not original.numel()
    assert guard.broken() == []


def test_strides_are_kept_or_padded() -> None:
    turned = filled(torch.float32, 3, 5).T
    assert Guard().place("x", turned).stride() == turned.stride()
    padded = Guard().place("x", turned, padded_strides(turned))
    assert not padded.is_contiguous() and padded.stride(1) == 1
    assert padded_strides(filled(torch.float32, 7)) == (2,)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("strided", [False, True])
def test_a_write_before_or_behind_is_seen(dtype: torch.dtype, strided: bool) -> None:
    original = filled(dtype, 3, 5)
    strides = padded_strides(original) if strided else (5, 1)
    last = 2 * strides[0] + 4
    for offset, told in (
        (-1, "x: written before it"),
        (last + 1, "x: written after it"),
        (-MARGIN // 8, "x: written before it"),
    ):
        guard = Guard()
        placed = guard.place("x", original, strides)
        element_at(placed, offset).view(torch.uint8).fill_(1)
        assert guard.broken() == [told]


def test_a_write_within_is_not() -> None:
    guard = Guard()
    guard.place("x", filled(torch.bfloat16, 3, 5)).fill_(7)
    guard.empty("y", filled(torch.int32, 2, 2)).zero_()
    assert guard.broken() == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_poison_is_nan_or_no_index(dtype: torch.dtype) -> None:
    tensor, where = filled(dtype, 4, 3), torch.tensor([True, False, True, False])[:, None].expand(4, 3)
    before = tensor.clone()
    poison(tensor, where)
    if dtype.is_floating_point:
        assert bool(tensor.float()[where].isnan().all())
    elif dtype != torch.bool:
        assert bool((tensor[where].long() > 100).all())
    assert torch.equal(
        bits(tensor.view(torch.uint8).view(4, -1)[1::2]), bits(before.view(torch.uint8).view(4, -1)[1::2])
    )


@pytest.mark.parametrize("make", [torch.empty_like, lambda t: t.new_empty(t.shape), lambda t: torch.empty(t.shape)])
def test_what_a_kernel_allocates_starts_as_poison(make: object) -> None:
    assert callable(make)
    with Allocations(Guard()):
        assert bool(make(torch.zeros(4, 4)).isnan().all())


def test_what_a_kernel_fills_is_what_it_asked_for() -> None:
    guard = Guard()
    with Allocations(guard):
        assert bool((torch.zeros(3) == 0).all() and (torch.ones(3) == 1).all() and (torch.full((3,), 7.0) == 7).all())
    assert guard.broken() == []


def test_a_write_behind_what_a_kernel_allocates_is_seen() -> None:
    guard = Guard()
    with Allocations(guard):
        scratch = torch.zeros(2, 3)
    element_at(scratch, 6).fill_(1.0)
    assert guard.broken() == ["memory the kernel allocated: written after it"]


def test_large_tensors_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "LARGE", 8)
    large = filled(torch.float32, 3)
    assert Guard().place("x", large) is large
    with Allocations(Guard()):
        assert torch.empty_like(large).untyped_storage().nbytes() == 12
