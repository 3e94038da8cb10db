"""Copies of tokens sorted by expert, and the experts' matrices on them. An id that is no expert's is a dropped copy."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepport import formats
from deepport.fit import calls, dtypes, floats, packing, shapes
from deepport.kernel import Kernel, Signature, Support, no
from deepport_triton.kernels.elementwise import ACTIVATIONS, clamped_swiglu, unbounded
from deepport_triton.kernels.linear import grouped_linear, tile, tile_of, tiles
from deepport_triton.kernels.moe import moe_combine
from deepport_triton.kernels.numbers import bits, in_memory, product, readable
from deepport_triton.launch import launch

SORTED, COPIED = 1024, 1024
"""Ids, and numbers of a row, that a program takes at a time."""


@triton.jit
def _expert_of(ids, at, copies, experts):
    """Whose copies these are; dropped ones are `experts`', and behind the last nobody's."""
    id = tl.load(ids + at, mask=at < copies, other=-1)
    return tl.where(at < copies, tl.where((id < 0) | (id >= experts), experts, id), experts + 1)


@triton.jit
def _sort_expert(ids, order, inverse, offsets, copies, experts, block: tl.constexpr):
    """A program for each expert, and one for the dropped: it counts who comes before, then places its own in their order."""
    expert = tl.program_id(0)
    counted = tl.zeros((block,), tl.int32)
    for begin in range(0, copies, block):
        counted += (_expert_of(ids, begin + tl.arange(0, block), copies, experts) < expert).to(tl.int32)
    first = tl.sum(counted, 0)
    tl.store(offsets + expert, first)
    for begin in range(0, copies, block):
        at = begin + tl.arange(0, block)
        mine = _expert_of(ids, at, copies, experts) == expert
        row = first + tl.cumsum(mine.to(tl.int32), 0) - 1
        tl.store(inverse + at, row, mask=mine)
        tl.store(order + row, at, mask=mine)
        first += tl.sum(mine.to(tl.int32), 0)


def _sorted(ids: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """The copy in each row, the row of each copy [T, k], and where each expert's rows begin [experts + 1]."""
    ids = ids.contiguous()
    order, inverse = ids.new_empty(ids.numel()), torch.empty_like(ids)
    offsets = ids.new_empty(experts + 1)
    launch(_sort_expert, (experts + 1,), ids, order, inverse, offsets, ids.numel(), experts, block=SORTED)
    return order, inverse, offsets


@triton.jit
def _copy_row(x, order, offsets, rows, k, width, experts, block: tl.constexpr):
    row, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * block + tl.arange(0, block)
    if row < tl.load(offsets + experts):
        token = (tl.load(order + row) // k).to(tl.int64)
        tl.store(rows + row * width + at, tl.load(x + token * width + at, mask=at < width), mask=at < width)


def moe_dispatch(x: Tensor, ids: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    order, inverse, offsets = _sorted(ids, experts)
    rows, width = x.new_empty((ids.numel(), x.shape[1])), x.shape[1]
    grid, given = (ids.numel(), triton.cdiv(width, COPIED)), bits(x.contiguous())
    launch(_copy_row, grid, given, order, offsets, bits(rows), ids.shape[1], width, experts, block=COPIED)
    return rows, offsets, inverse


@triton.jit
def _gate_up_tile(
    x, w, scale, order, offsets, y, count, experts, k, hidden, columns, packed, scales, limit,
    element: tl.constexpr, tall: tl.constexpr, wide: tl.constexpr, power: tl.constexpr,
    rows: tl.constexpr, outs: tl.constexpr, step: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Gate and up of a unit are neighbours among the products, so that one program has both."""
    expert, first, end = tile_of(tl.program_id(0), offsets, experts, count, rows, block)
    if expert < experts:
        row, e = first + tl.arange(0, rows), expert.to(tl.int64)
        out = tl.program_id(1) * outs + tl.arange(0, outs)
        token = (tl.load(order + row, mask=row < end, other=0) // k).to(tl.int64)
        total = product(
            x, token * columns, row < end, w + e * 2 * hidden * packed, scale + e * scales,
            (out % 2) * hidden + out // 2, out < 2 * hidden, columns,
            element, tall, wide, power, rows, outs, step,
        )  # fmt: skip
        gate, up = tl.split(tl.reshape(total, (rows, outs // 2, 2)))
        unit = tl.program_id(1) * (outs // 2) + tl.arange(0, outs // 2)
        inside = (row < end)[:, None] & (unit < hidden)[None, :]
        places = y + (row.to(tl.int64) * hidden)[:, None] + unit[None, :]
        tl.store(places, clamped_swiglu(gate, up, limit).to(y.dtype.element_ty), mask=inside)


def moe_experts(
    x: Tensor, ids: Tensor, weights: Tensor, w13: Tensor, w2: Tensor, limit: float | None,
    w13_scale: Tensor | None = None, w2_scale: Tensor | None = None, format: str = formats.PLAIN,
) -> Tensor:  # fmt: skip
    x, count, k, (experts, doubled, packed) = x.contiguous(), ids.numel(), ids.shape[1], w13.shape
    order, inverse, offsets = _sorted(ids, experts)
    hidden = x.new_empty((count, doubled // 2))
    data, given, known = in_memory(w13, w13_scale, format)
    sizes: dict[str, Any] = tile(count // experts, x, format)
    shared = 0 if w13_scale is None else w13_scale.shape[-2] * w13_scale.shape[-1]
    launch(
        _gate_up_tile, tiles(count, experts, doubled, sizes), x, data, given, order, offsets, hidden,
        count, experts, k, doubled // 2, x.shape[1], packed, shared, unbounded(limit),
        **known, **sizes, block=triton.next_power_of_2(experts + 1),
    )  # fmt: skip
    return moe_combine(grouped_linear(hidden, w2, w2_scale, format, offsets), weights, inverse, ids)


def _experts(signature: Signature) -> Support:
    format, w13, w2 = signature["format"], signature["w13"], signature["w2"]
    if not w13.shape[0] or w13.shape[1] % 2:
        return no("shape", f"w13 is {list(w13.shape)}: no experts, or no two halves")
    return (  # two lists of shapes: a name is only known behind where it first stands alone
        floats(signature, "x", of=ACTIVATIONS)
        and dtypes(signature, ids=torch.int32, weights=torch.float32)
        and readable(w13, signature["w13_scale"], format)
        and readable(w2, signature["w2_scale"], format)
        and shapes(signature, w2="E C Q", w13=f"E {2 * packing(format)}*Q P")
        and shapes(
            signature, w13="E H P", w2=f"E {packing(format)}*P Q", x=f"T {packing(format)}*P", ids="T K", weights="T K"
        )
    )


KERNELS = (
    Kernel("moe_dispatch", "triton", moe_dispatch, calls.moe_dispatch),
    Kernel("moe_experts", "triton", moe_experts, _experts),
)
