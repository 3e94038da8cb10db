"""The paged cache's write: bits are moved, so that any type will do."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepport.fit import calls, in_place
from deepport.kernel import Kernel, Signature, Support, no
from deepport_triton.checks import check_within, checked
from deepport_triton.kernels.numbers import bits
from deepport_triton.kernels.ragged import sequence_of
from deepport_triton.launch import launch

COPIED = 1024
"""Channels that a program copies at a time."""


@triton.jit
def _write_token(
    pages, table, values, positions, cu_seqlens, sequences, count, page, columns, width, block: tl.constexpr
):
    token, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * block + tl.arange(0, block)
    if token < tl.load(cu_seqlens + sequences):
        sequence = sequence_of(token, cu_seqlens, sequences, 128).to(tl.int64)
        position = tl.load(positions + token)
        if (position >= 0) & (position < columns * page):
            place = tl.load(table + sequence * columns + position // page).to(tl.int64)
            found = tl.load(values + token * width + at, mask=at < width)
            to = pages + (place * page + position % page) * width + at
            tl.store(to, found, mask=(at < width) & (place >= 0) & (place < count))


def write_pages_(pages: Tensor, table: Tensor, values: Tensor, positions: Tensor, cu_seqlens: Tensor) -> None:
    (count, page, width), (sequences, columns) = pages.shape, table.shape
    if checked(positions):
        told = f"write_pages: a position lies outside the table, which holds {columns * page} entries"
        check_within(positions[: int(cu_seqlens[-1])], columns * page, told)
    given = (table.contiguous(), bits(values.contiguous()), positions.contiguous(), cu_seqlens.contiguous())
    grid = (values.shape[0], triton.cdiv(width, COPIED))
    launch(_write_token, grid, bits(pages), *given, sequences, count, page, columns, width, block=COPIED)


def write_pages(pages: Tensor, table: Tensor, values: Tensor, positions: Tensor, cu_seqlens: Tensor) -> Tensor:
    written = pages.clone(memory_format=torch.contiguous_format)
    write_pages_(written, table, values, positions, cu_seqlens)
    return written


def _write(signature: Signature) -> Support:
    if not signature["table"].shape[0]:
        return no("shape", "there are no sequences")
    return calls.write_pages(signature)


def _write_in_place(signature: Signature) -> Support:
    return in_place(signature, "pages") and _write(signature)


KERNELS = (
    Kernel("write_pages_", "triton", write_pages_, _write_in_place, mutates=("pages",)),
    Kernel("write_pages", "triton", write_pages, _write),
)
