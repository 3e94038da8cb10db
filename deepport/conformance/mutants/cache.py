"""Mutants of the paged cache's write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from deepport.conformance.mutants.mutant import Given, Mutant, answered, asked, differentiated, written
from deepport.op import Operator
from deepport.ops import write_pages, write_pages_
from deepport.ragged import sequence_of_row


def mutants() -> Iterator[Mutant]:
    for operator in (write_pages, write_pages_):
        yield from _both(operator)
    yield answered(write_pages, "works_in_place", "writes to the pages it was given, and returns them", _in_place)
    pages_ = write_pages.reference
    yield differentiated(
        write_pages, "keeps_overwritten", "pages that were overwritten have a gradient",
        lambda pages, **rest: pages_(pages, **rest) + pages - pages.detach(),
    )  # fmt: skip


def _both(operator: Operator[..., Any]) -> Iterator[Mutant]:
    yield asked(
        operator, "off_by_one_page", "entries go to the page after theirs", lambda g: {"table": g["table"].roll(-1, 1)}
    )
    yield asked(operator, "ignores_the_table", "logical pages are taken for physical ones", _logical)
    yield asked(operator, "drops_the_last_token", "each batch's last token is not written", _without_last)
    yield _writing(operator, "writes_padding", "rows behind cu_seqlens[B] are written to the last sequence", _padding)
    yield _writing(operator, "sequence_off_by_one", "a sequence's first token goes to the one before it", _before)
    yield _writing(operator, "wraps_addresses", "byte addresses wrap at 2^31", _wrapped)
    yield _writing(operator, "never_refuses", "a position outside the table is clamped, not refused", _clamped)


Where = Callable[[Given], tuple[Tensor, Tensor]]
"""Which rows are written, and where to in `pages.flatten(0, 1)`."""


def _writing(operator: Operator[..., Any], name: str, fault: str, where: Where) -> Mutant:
    def run(*arguments: Any) -> Tensor | None:
        given = operator.bind(arguments)
        pages, values = given["pages"], given["values"]
        written, rows = where(given)
        target = pages if operator.mutates else pages.clone(memory_format=torch.contiguous_format)
        # Pages are written by index: a view of strided ones would be a copy.
        target[rows // pages.shape[1], rows % pages.shape[1]] = values[written].to(pages.dtype)
        return None if operator.mutates else target

    return written(operator, name, fault, run)


def _addresses(given: Given, sequence: Tensor, positions: Tensor) -> Tensor:
    page, table = given["pages"].shape[1], given["table"]
    found: Tensor = table[sequence, positions // page].long() * page + positions % page
    return found


def _padding(given: Given) -> tuple[Tensor, Tensor]:
    positions = given["positions"]
    last, capacity = given["table"].shape[0] - 1, given["table"].shape[1] * given["pages"].shape[1]
    sequence = sequence_of_row(given["cu_seqlens"], len(positions)).clamp(max=last)
    return torch.arange(len(positions)), _addresses(given, sequence, positions.clamp(0, capacity - 1))


def _real(given: Given) -> tuple[Tensor, Tensor, Tensor]:
    """Rows that are no padding, their sequences and positions."""
    sequence = sequence_of_row(given["cu_seqlens"], len(given["positions"]))
    real = (sequence < given["table"].shape[0]).nonzero().flatten()
    return real, sequence[real], given["positions"][real]


def _before(given: Given) -> tuple[Tensor, Tensor]:
    real, sequence, positions = _real(given)
    first = torch.isin(real, given["cu_seqlens"][1:-1])
    return real, _addresses(given, sequence - (first & (sequence > 0)).long(), positions)


def _wrapped(given: Given) -> tuple[Tensor, Tensor]:
    real, sequence, positions = _real(given)
    pages = given["pages"]
    size = pages.shape[-1] * pages.element_size()
    addresses = (_addresses(given, sequence, positions) * size).int().long()
    return real, (addresses // size) % (pages.shape[0] * pages.shape[1])


def _clamped(given: Given) -> tuple[Tensor, Tensor]:
    real, sequence, positions = _real(given)
    capacity = given["table"].shape[1] * given["pages"].shape[1]
    return real, _addresses(given, sequence, positions.clamp(0, capacity - 1))


def _logical(given: Given) -> Given:
    table = given["table"]
    return {"table": torch.arange(table.numel(), dtype=torch.int32).view(table.shape)}


def _without_last(given: Given) -> Given:
    cu_seqlens = given["cu_seqlens"].clone()
    cu_seqlens[cu_seqlens == cu_seqlens[-1]] -= int(cu_seqlens[-1] > 0)
    return {"cu_seqlens": cu_seqlens}


def _in_place(results: list[Tensor], given: Given) -> Tensor:
    pages: Tensor = given["pages"]
    return pages.copy_(results[0])
