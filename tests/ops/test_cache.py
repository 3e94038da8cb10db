"""write_pages against a loop over tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.compare import draw, same_bits
from torch import Tensor

from deepport import ops

PAGE_ROWS = 1 << 16


def batch(lengths: list[int], first: list[int]) -> tuple[Tensor, Tensor]:
    positions = torch.tensor(
        [p for n, f in zip(lengths, first, strict=True) for p in range(f, f + n)], dtype=torch.int64
    )
    return positions, torch.tensor([0, *lengths]).cumsum(0).int()


def naive(pages: Tensor, table: Tensor, values: Tensor, positions: Tensor, cu_seqlens: Tensor) -> Tensor:
    pages, page = pages.clone(), pages.shape[1]
    for b in range(len(cu_seqlens) - 1):
        for t in range(int(cu_seqlens[b]), int(cu_seqlens[b + 1])):
            p = int(positions[t])
            pages[int(table[b, p // page]), p % page] = values[t].to(pages.dtype)
    return pages


@settings(deadline=None, max_examples=25)
@given(
    sequences=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 20)), min_size=1, max_size=4),
    page=st.integers(1, 7),
    padding=st.integers(0, 3),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_every_token_is_written_and_nothing_else(
    sequences: list[tuple[int, int]], page: int, padding: int, dtype: torch.dtype, seed: int
) -> None:
    lengths, first = [n for n, _ in sequences], [f for _, f in sequences]
    positions, cu_seqlens = batch(lengths, first)
    each = max(n + f for n, f in sequences) // page + 1
    order = torch.randperm(len(lengths) * each + 2, generator=torch.Generator().manual_seed(seed))
    table = order[: len(lengths) * each].view(len(lengths), each).int()
    pages = draw(seed, len(order), page, 3).to(dtype)
    values = torch.cat((draw(seed + 1, len(positions), 3), torch.full((padding, 3), torch.nan).double())).float()
    positions = torch.cat((positions, torch.full((padding,), 1 << 40)))  # padding's positions mean nothing
    expected = naive(pages, table, values, positions, cu_seqlens)
    assert same_bits(ops.write_pages(pages, table, values, positions, cu_seqlens), expected)
    ops.write_pages_(pages, table, values, positions, cu_seqlens)
    assert same_bits(pages, expected)


@pytest.mark.parametrize("position", [-1, 8, 1 << 40])
def test_a_position_outside_the_table_raises_before_anything_is_written(position: int) -> None:
    pages, table = torch.zeros(4, 4, 2), torch.tensor([[1, 3]], dtype=torch.int32)
    arguments = (table, torch.ones(2, 2), torch.tensor([0, position]), torch.tensor([0, 2], dtype=torch.int32))
    for write in (ops.write_pages, ops.write_pages_):
        with pytest.raises(IndexError, match=r"^write_pages: .* outside the table, which holds 8 entries$"):
            write(pages, *arguments)
    assert not pages.any()


def test_rows_past_two_to_the_31st(tmp_path: Path) -> None:
    """A sparse file of 32,770 pages of 65,536 rows: int32 arithmetic on rows would wrap."""
    pages = torch.from_file(str(tmp_path / "pages"), shared=True, size=32770 * PAGE_ROWS, dtype=torch.uint8)
    pages = pages.view(32770, PAGE_ROWS, 1)
    table = torch.tensor([[32769, 1]], dtype=torch.int32)
    positions, cu_seqlens = torch.tensor([PAGE_ROWS - 1, PAGE_ROWS]), torch.tensor([0, 2], dtype=torch.int32)
    ops.write_pages_(pages, table, torch.tensor([[7], [9]], dtype=torch.uint8), positions, cu_seqlens)
    assert (int(pages[32769, -1]), int(pages[1, 0])) == (7, 9)
    assert int(pages[1, -1]) == 0, "where 32769 * 65536 wraps to"
    q, weights = torch.ones(1, 1, 1), torch.ones(1, 1)
    chosen = ops.index_topk(
        q, weights, pages, table, positions[1:], torch.tensor([0, 1], dtype=torch.int32), PAGE_ROWS, 1
    )
    assert chosen.tolist() == [[0]]
    o, _ = ops.sparse_attention(
        q, pages, table, None, None, None, None, positions[1:], torch.tensor([0, 1], dtype=torch.int32), 1.0, 2, 0
    )
    expected = torch.tensor([7.0, 9.0]).softmax(0) @ torch.tensor([7.0, 9.0])
    assert abs(float(o) - float(expected)) < 1e-5


def test_gradients_are_the_slopes() -> None:
    table = torch.tensor([[2, 0], [1, 3]], dtype=torch.int32)
    positions, cu_seqlens = batch([3, 1], [1, 3])
    pages, values = draw(0, 4, 2, 3).requires_grad_(), draw(1, 5, 3).requires_grad_()
    positions = torch.cat((positions, torch.zeros(1, dtype=torch.int64)))
    assert torch.autograd.gradcheck(lambda p, v: ops.write_pages(p, table, v, positions, cu_seqlens), (pages, values))
