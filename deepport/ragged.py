"""Ragged batches and paged caches, as references read them.

A batch is the new tokens of all sequences, one after another: `[T, ...]`, with `cu_seqlens [B+1]` where sequence `b` has the
rows `cu_seqlens[b]:cu_seqlens[b+1]` and `positions [T]`, each token's place in its own sequence. Rows at or past
`cu_seqlens[B]` are padding. A cache is `pages [P, page, D]` with `table [B, max_pages]`: entry `i` of sequence `b` lies in
row `i % page` of the page `table[b, i // page]`.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor


def segments(cu_seqlens: Tensor, block: int = 0) -> Iterator[tuple[int, int, int]]:
    """`(sequence, first row, end row)` of every sequence with new tokens, in blocks of at most `block` rows.

    Blocks bound a reference's scratch memory, so that a long prefill's grows linearly.
    """
    for b, (low, high) in enumerate(pairwise(cu_seqlens.tolist())):
        step = block or max(high - low, 1)
        for first in range(low, high, step):
            yield b, first, min(first + step, high)


def sequence_of_row(cu_seqlens: Tensor, rows: int) -> Tensor:
    """`[rows] int64`: the sequence of every row; padding rows get B."""
    row = torch.arange(rows, device=cu_seqlens.device)
    return torch.searchsorted(cu_seqlens[1:].long(), row, right=True)


def page_rows(table: Tensor, page: int, sequence: int | Tensor, entries: Tensor) -> Tensor:
    """Rows of `pages.flatten(0, 1)`, int64, at which `entries` of a sequence lie."""
    return table[sequence, entries // page].long() * page + entries % page


def read_pages(pages: Tensor, table: Tensor, sequence: int, entries: Tensor) -> Tensor:
    """The cached rows `[*entries.shape, D]` of one sequence."""
    rows = page_rows(table, pages.shape[1], sequence, entries)
    # Not pages[rows]: the gradient of index_select is an index_add, several times faster than that of an index.
    found: Tensor = pages.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, rows.shape)
    return found
