"""Masks that several contracts share. True where no implementation may read."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from deepport.conformance.contract import Arguments, Masks
from deepport.ragged import page_rows, segments

Read = Iterable[tuple[int, Tensor]]
"""`(sequence, entries of it that are read)`."""


def rows(where: Tensor, like: Tensor) -> Tensor:
    """`where [R]`, over whole rows of a tensor `[R, ...]`."""
    return where.view(-1, *[1] * (like.dim() - 1)).expand(like.shape)


def padding(arguments: Arguments, *names: str) -> Masks:
    """Rows at or past `cu_seqlens[B]` of these per-token arguments; those that are None have none."""
    end = int(arguments["cu_seqlens"][-1])
    given = {n: arguments[n] for n in names if arguments[n] is not None}
    return {n: rows(torch.arange(t.shape[0]) >= end, t) for n, t in given.items()}


def without(used: Tensor, *tensors: Tensor | None) -> list[Tensor | None]:
    """For tensors `[N, ...]`, the rows that are not among the ids `used`."""
    return [None if t is None else rows(_except(t.shape[0], used), t) for t in tensors]


def _except(count: int, used: Tensor) -> Tensor:
    left = torch.ones(count, dtype=torch.bool)
    left[used.long()] = False
    return left


def paged(arguments: Arguments, pages: str, table: str, read: Read) -> Masks:
    """What of these pages and their table is not addressed."""
    data, places = arguments[pages], arguments[table]
    page = data.shape[1]
    unread = torch.ones(data.shape[0] * page, dtype=torch.bool)
    unlooked = torch.ones(places.shape, dtype=torch.bool)
    for b, entries in read:
        unread[page_rows(places, page, b, entries)] = False
        unlooked[b, entries // page] = False
    return {pages: unread.view(-1, page, 1).expand(data.shape), table: unlooked}


def positions_of(arguments: Arguments) -> Iterable[tuple[int, Tensor]]:
    """`(sequence, positions of its new tokens)` for every sequence that has some."""
    for b, low, high in segments(arguments["cu_seqlens"]):
        yield b, arguments["positions"][low:high]


def ready_entries(arguments: Arguments) -> Read:
    """The compressed entries that some new token may see."""
    for b, positions in positions_of(arguments):
        yield b, torch.arange(int(positions.max() + 1) // arguments["ratio"])
