"""Errors of a result against an oracle's, and data that every dtype sees alike."""

from __future__ import annotations

import torch
from torch import Tensor

DOUBLE = 1e-12
"""A float64 result that went through float32 anywhere is off by 1e-8 or more; the worst measured is 1e-15."""


def relative(ours: Tensor, oracle: Tensor) -> float:
    """max|difference| / max|oracle|; NaN where only one of them has a NaN."""
    assert ours.shape == oracle.shape, f"{tuple(ours.shape)} is not {tuple(oracle.shape)}"
    if not ours.numel():
        return 0.0
    a, b = ours.detach().double(), oracle.detach().double()
    return float((a - b).abs().max() / b.abs().max())


def draw(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    """Normal float64 data whose values float32 has too."""
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale).double()


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal shape, dtype and bytes: also of NaN, and -0.0 is not 0.0."""
    return (
        a.shape == b.shape
        and a.dtype == b.dtype
        and torch.equal(a.contiguous().view(-1).view(torch.uint8), b.contiguous().view(-1).view(torch.uint8))
    )


def paged(rows: list[Tensor], page: int, seed: int, unused: float = float("nan")) -> tuple[Tensor, Tensor]:
    """Pages and table of sequences with these cached rows `[n, D]`: shuffled pages, `unused` wherever no row lies."""
    pages_each = max(1, *(-(-len(r) // page) for r in rows))
    order = torch.randperm(len(rows) * pages_each, generator=torch.Generator().manual_seed(seed))
    table = order.view(len(rows), pages_each).int()
    pages = torch.full((len(order), page, rows[0].shape[1]), unused, dtype=rows[0].dtype)
    for b, cached in enumerate(rows):
        for i, row in enumerate(cached):
            pages[int(table[b, i // page]), i % page] = row
    return pages, table
