"""Linear layers in every number format: one matrix, one for each group, or one for each expert's rows."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepport import formats
from deepport.fit import dtypes, floats
from deepport.kernel import Kernel, Signature, Support, no
from deepport_triton import interpreting
from deepport_triton.kernels.elementwise import ACTIVATIONS
from deepport_triton.kernels.numbers import in_memory, product, weight
from deepport_triton.launch import launch

FEW = 16
"""Tokens up to which a matrix is read for what they are: memory is the limit, and small programs are many that read."""

OUTS = 128 if interpreting() else 16
"""Rows of the matrix that a program then takes; the interpreter's time is that of its programs."""


def tile(tokens: int, x: Tensor, format: str) -> dict[str, int]:
    """Rows of x, rows of the matrix and columns that a program multiplies at a time."""
    wide = 0 if format == formats.PLAIN else formats.parse(format).columns
    if tokens <= FEW:
        sizes = {"rows": 16, "outs": OUTS, "step": 128}
    else:
        sizes = {"rows": 32 if tokens <= 32 else 64, "outs": 64, "step": 64}
    if x.dtype == torch.float32:
        sizes["step"] //= 2
    return sizes | ({"step": min(sizes["step"], wide)} if wide > 1 else {})


@triton.jit
def _linear_tile(
    x, w, scale, y, tokens, groups, outputs, columns, packed, scales,
    element: tl.constexpr, tall: tl.constexpr, wide: tl.constexpr, power: tl.constexpr,
    rows: tl.constexpr, outs: tl.constexpr, step: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(2).to(tl.int64)
    token = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    out = tl.program_id(1) * outs + tl.arange(0, outs)
    at, there, known = token * groups + group, token < tokens, out < outputs
    total = product(
        x, at * columns, there, w + group * outputs * packed, scale + group * scales, out, known, columns,
        element, tall, wide, power, rows, outs, step,
    )  # fmt: skip
    places = y + (at * outputs)[:, None] + out[None, :]
    tl.store(places, total.to(y.dtype.element_ty), mask=there[:, None] & known[None, :])


def linear(
    x: Tensor, w: Tensor, scale: Tensor | None = None, format: str = formats.PLAIN, wide: bool = False
) -> Tensor:
    y = x.new_empty((*x.shape[:-1], w.shape[0]), dtype=torch.float32 if wide else x.dtype)
    return _multiplied(x, w, scale, format, y, x.shape[:-1].numel(), 1)


def block_linear(x: Tensor, w: Tensor, scale: Tensor | None = None, format: str = formats.PLAIN) -> Tensor:
    tokens, groups, _ = x.shape
    return _multiplied(x, w, scale, format, x.new_empty((tokens, groups, w.shape[1])), tokens, groups)


def _multiplied(x: Tensor, w: Tensor, scale: Tensor | None, format: str, y: Tensor, tokens: int, groups: int) -> Tensor:
    """y, which becomes what x [tokens, groups, columns] and w [groups, outputs, columns] give."""
    outputs, packed = w.shape[-2:]
    shared = 0 if scale is None else scale.shape[-2] * scale.shape[-1]
    sizes = tile(tokens, x, format)
    data, given, known = in_memory(w, scale, format)
    grid = (triton.cdiv(tokens, sizes["rows"]), triton.cdiv(outputs, sizes["outs"]), groups)
    launch(
        _linear_tile, grid, x.contiguous(), data, given, y, tokens, groups, outputs, x.shape[-1], packed, shared,
        **known, **sizes,
    )  # fmt: skip
    return y


def _linear(signature: Signature) -> Support:
    return floats(signature, "x", of=ACTIVATIONS) and weight(signature, "N P", "... columns")


def _block_linear(signature: Signature) -> Support:
    return floats(signature, "x", of=ACTIVATIONS) and weight(signature, "G N P", "T G columns")


@triton.jit
def tile_of(tile, offsets, experts, last, rows: tl.constexpr, block: tl.constexpr):
    """The expert of a tile of sorted rows, and the tile's first row and the expert's end.

    Experts' tiles follow each other; behind them, as an expert of its own, come the rows up to `last` that nobody has.
    """
    expert = tl.arange(0, block)
    low = tl.load(offsets + expert, mask=expert <= experts, other=last)
    high = tl.load(offsets + 1 + expert, mask=expert < experts, other=last)
    tiles = (tl.maximum(high - low, 0) + rows - 1) // rows
    ends = tl.cumsum(tiles, 0)
    mine = tl.sum((ends <= tile).to(tl.int32), 0)
    of_mine = expert == mine
    first = tl.sum(tl.where(of_mine, low + (tile - (ends - tiles)) * rows, 0), 0)
    return mine, first, tl.sum(tl.where(of_mine, high, 0), 0)


@triton.jit
def _grouped_tile(
    x, w, scale, offsets, y, count, experts, outputs, columns, packed, scales,
    element: tl.constexpr, tall: tl.constexpr, wide: tl.constexpr, power: tl.constexpr,
    rows: tl.constexpr, outs: tl.constexpr, step: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    expert, first, end = tile_of(tl.program_id(0), offsets, experts, count, rows, block)
    if expert <= experts:
        row = (first + tl.arange(0, rows)).to(tl.int64)
        out = tl.program_id(1) * outs + tl.arange(0, outs)
        there, known, e = row < end, out < outputs, expert.to(tl.int64)
        total = product(
            x, row * columns, there, w + e * outputs * packed, scale + e * scales, out, known,
            tl.where(expert < experts, columns, 0), element, tall, wide, power, rows, outs, step,
        )  # fmt: skip
        places = y + (row * outputs)[:, None] + out[None, :]
        tl.store(places, total.to(y.dtype.element_ty), mask=there[:, None] & known[None, :])


def grouped_linear(x: Tensor, w: Tensor, scale: Tensor | None, format: str, offsets: Tensor) -> Tensor:
    (count, columns), (experts, outputs, packed) = x.shape, w.shape
    y = x.new_empty((count, outputs))
    data, given, known = in_memory(w, scale, format)
    sizes = tile(count // max(experts, 1), x, format)
    shared = 0 if scale is None else scale.shape[-2] * scale.shape[-1]
    launch(
        _grouped_tile, tiles(count, experts + 1, outputs, sizes), x.contiguous(), data, given, offsets.contiguous(), y,
        count, experts, outputs, columns, packed, shared, **known, **sizes, block=triton.next_power_of_2(experts + 1),
    )  # fmt: skip
    return y


def tiles(count: int, experts: int, outputs: int, sizes: dict[str, int]) -> tuple[int, int]:
    """The grid that holds the tiles of `count` sorted rows, however they are spread over experts."""
    return count // sizes["rows"] + min(experts, count), triton.cdiv(outputs, sizes["outs"])


def _grouped_linear(signature: Signature) -> Support:
    if not signature["w"].shape[0]:
        return no("shape", "there are no experts")
    return (
        floats(signature, "x", of=ACTIVATIONS)
        and dtypes(signature, offsets=torch.int32)
        and weight(signature, "E N P", "R columns")
    )


KERNELS = (
    Kernel("linear", "triton", linear, _linear),
    Kernel("block_linear", "triton", block_linear, _block_linear),
    Kernel("grouped_linear", "triton", grouped_linear, _grouped_linear),
)
