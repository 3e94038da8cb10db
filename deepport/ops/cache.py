"""The paged cache's write."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor

from deepport.op import operator
from deepport.ragged import page_rows, sequence_of_row
from deepport.spec import EXACT, FLOATS, Case, Cost, case, nbytes, normal


def ragged(lengths: tuple[int, ...], first: tuple[int, ...], padding: int = 0) -> tuple[Tensor, Tensor]:
    """`positions [T] int64` and `cu_seqlens [B+1] int32` of sequences that go on at position `first`."""
    spans = [torch.arange(f, f + n) for f, n in zip(first, lengths, strict=True)]
    positions = torch.cat([*spans, torch.zeros(padding)]).long()
    return positions, torch.tensor([0, *lengths]).cumsum(0).int()


def shuffled_table(g: Generator, sequences: int, max_pages: int) -> Tensor:
    """A page table in which no sequence's pages are in order."""
    return torch.randperm(sequences * max_pages, generator=g).view(sequences, max_pages).int()


def write_arguments(
    g: Generator,
    lengths: tuple[int, ...],
    first: tuple[int, ...],
    page: int,
    padding: int,
    dtype: torch.dtype,
    width: int = 24,
) -> dict[str, Any]:
    positions, cu_seqlens = ragged(lengths, first, padding)
    max_pages = max(f + n for f, n in zip(first, lengths, strict=True)) // page + 1
    return {
        "pages": normal(g, len(lengths) * max_pages, page, width, dtype=dtype),
        "table": shuffled_table(g, len(lengths), max_pages),
        "values": normal(g, positions.shape[0], width, dtype=dtype),
        "positions": positions,
        "cu_seqlens": cu_seqlens,
    }


def _cases() -> Iterator[Case]:
    for lengths, first, page, padding in (
        ((1,), (0,), 4, 0),
        ((5, 0, 9), (0, 3, 7), 4, 3),
        ((1, 1, 1), (3, 4, 15), 4, 0),
        ((0,), (0,), 8, 2),
        ((33,), (31,), 16, 0),
    ):
        for dtype in FLOATS:
            yield case(write_arguments, lengths=lengths, first=first, page=page, padding=padding, dtype=dtype)


def _cost(pages: Tensor, table: Tensor, values: Tensor, positions: Tensor, cu_seqlens: Tensor) -> Cost:
    return Cost(0.0, 2 * nbytes(values) + nbytes(positions, cu_seqlens))


def _rows(pages: Tensor, table: Tensor, positions: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows are written (the rest is padding), and where to in `pages.flatten(0, 1)`."""
    sequence = sequence_of_row(cu_seqlens, positions.shape[0])
    real = sequence < table.shape[0]
    sequence, positions = sequence[real], positions[real]
    page = pages.shape[1]
    if positions.numel() and (positions.min() < 0 or positions.max() >= table.shape[1] * page):
        raise IndexError(f"write_pages: a position lies outside the table, which holds {table.shape[1] * page} entries")
    return real, page_rows(table, page, sequence, positions)


@operator(
    cost=_cost,
    cases=_cases,
    tolerance=EXACT,
    fake=lambda pages, table, values, positions, cu_seqlens: None,
    mutates=("pages",),
)
def write_pages_(pages: Tensor, table: Tensor, values: Tensor, positions: Tensor, cu_seqlens: Tensor) -> None:
    """`pages[table[b, p // page], p % page] = values[t]` for every new token `t` of sequence `b` at position `p`.

    pages [P, page, D]; table [B, max_pages] int32; values [T, D]; positions [T] int64; cu_seqlens [B+1] int32. Rows at or
    past `cu_seqlens[B]` are padding: not read, not written. Raises IndexError for a position outside the table.
    """
    real, rows = _rows(pages, table, positions, cu_seqlens)
    pages.view(-1, pages.shape[-1]).index_copy_(0, rows, values[real].to(pages.dtype))


@operator(
    cost=lambda pages, table, values, positions, cu_seqlens: Cost(0.0, 2 * nbytes(pages, values)),
    cases=_cases,
    tolerance=EXACT,
    fake=lambda pages, table, values, positions, cu_seqlens: pages.new_empty(pages.shape),
    differentiable=("pages", "values"),
)
def write_pages(pages: Tensor, table: Tensor, values: Tensor, positions: Tensor, cu_seqlens: Tensor) -> Tensor:
    """The functional twin of `write_pages_`: returns new pages, and has a gradient."""
    real, rows = _rows(pages, table, positions, cu_seqlens)
    flat = pages.flatten(0, 1).index_copy(0, rows, values[real].to(pages.dtype))
    return flat.view(pages.shape).contiguous()
