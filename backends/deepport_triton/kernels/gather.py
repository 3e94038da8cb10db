"""Rows of memory tables, made numbers on the way. A host's table has to be pinned: its address is then the device's own."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepport import formats
from deepport.fit import dtypes, packing, shapes, stored
from deepport.kernel import Kernel, Signature, Support, no
from deepport_triton.checks import check_within
from deepport_triton.kernels.elementwise import ACTIVATIONS
from deepport_triton.kernels.numbers import factor, in_memory, store_numbers
from deepport_triton.launch import launch

GATHERED = 1024
"""Stored elements that a program reads at a time: several short rows, or a part of a long one."""


@triton.jit
def _gather_rows(
    rows, scale, ids, found, wanted, count, stored, scales,
    element: tl.constexpr, tall: tl.constexpr, wide: tl.constexpr, power: tl.constexpr,
    height: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    which = tl.program_id(0).to(tl.int64) * height + tl.arange(0, height)
    at = tl.program_id(1) * block + tl.arange(0, block)
    id = tl.load(ids + which, mask=which < wanted, other=-1)
    known = (id >= 0) & (id < count)
    row = tl.where(known, id, 0)
    inside = (which < wanted)[:, None] & (at < stored)[None, :]
    seen = inside & known[:, None]
    bits = tl.load(rows + (row * stored)[:, None] + at[None, :], mask=seen, other=0)
    by = tl.full((height, block), 1.0, tl.float32)
    if element != "plain":
        shared: tl.constexpr = wide // 2 if element == "mxfp4" else wide
        group = at // shared if wide else at * 0
        by = factor(tl.load(scale + (row * scales)[:, None] + group[None, :], mask=seen, other=0), power)
    by = tl.where(known[:, None], by, float("nan"))
    store_numbers(found, (which * stored)[:, None] + at[None, :], bits, by, inside, element)


def engram_gather(
    rows: Tensor,
    ids: Tensor,
    scale: Tensor | None = None,
    format: str = formats.PLAIN,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    count, width = rows.shape
    check_within(ids, count, f"engram_gather: an id lies outside the table's {count} rows")
    found = ids.new_empty((*ids.shape, width * packing(format)), dtype=dtype)
    block = min(int(triton.next_power_of_2(max(width, 1))), GATHERED)
    height = GATHERED // block
    data, given, known = in_memory(rows, scale, format)
    launch(
        _gather_rows, (triton.cdiv(ids.numel(), height), triton.cdiv(width, block)), data, given, ids.contiguous(), found,
        ids.numel(), count, width, 0 if scale is None else scale.shape[1], **known, height=height, block=block,
    )  # fmt: skip
    return found


def _gather(signature: Signature) -> Support:
    rows, scale, format = signature["rows"], signature["scale"], signature["format"]
    if signature["dtype"] not in ACTIVATIONS:
        return no("dtype", f"rows are wanted in {signature['dtype']}; the kernel makes float32, float16 and bfloat16")
    if not rows.contiguous or not (scale is None or scale.contiguous):
        return no("layout", "the table is not contiguous")
    if answer := stored(rows, scale, format, of=ACTIVATIONS) and shapes(signature, rows="R D"):
        one_row = format == formats.PLAIN or formats.parse(format).rows == 1
        even = format == formats.PLAIN or formats.parse(format).columns % 2 == 0
        if not (one_row and even):
            return no("format", f"a block of {format} spans several rows, or an odd number of columns")
        return dtypes(signature, ids=torch.int64)
    return answer


KERNELS = (Kernel("engram_gather", "triton", engram_gather, _gather),)
