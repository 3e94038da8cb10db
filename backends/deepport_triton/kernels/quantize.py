"""Plain numbers quantised, and quantised ones as plain: the bits of `deepport.formats`, on any chip."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepport import formats
from deepport.fit import floats, shapes, stored
from deepport.kernel import Kernel, Signature, Support, no
from deepport_triton.checks import checked
from deepport_triton.kernels.elementwise import ACTIVATIONS
from deepport_triton.kernels.numbers import factor, in_memory, store_numbers
from deepport_triton.launch import launch

TALL, WIDE = 32, 64
"""Rows and columns that a program takes at a time."""


@triton.jit
def _nearest(x, spacing):
    """x rounded to a multiple of a power of two, ties to even; less than 2^22 multiples."""
    magic = spacing * 12582912.0  # 1.5 * 2^23: floats there are `spacing` apart
    return (x + magic) - magic


@triton.jit
def _float8(x, fnuz: tl.constexpr):
    """The bits of numbers in range: rounded as float32, then moved to a float16, of which they are the top."""
    size = tl.abs(x)
    bits = size.to(tl.int32, bitcast=True)
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000).to(tl.float32, bitcast=True)
    least: tl.constexpr = 0.0078125 if fnuz else 0.015625
    rounded = tl.where(size < least, _nearest(size, least / 8), normal)
    half = (rounded * (0.0078125 if fnuz else 0.00390625)).to(tl.float16).to(tl.uint16, bitcast=True) >> 7
    negative = (x.to(tl.int32, bitcast=True) < 0) & ((half > 0) if fnuz else (half >= 0))
    return tl.where(x != x, 0x80 if fnuz else 0x7F, half + tl.where(negative, 0x80, 0)).to(tl.uint8)


@triton.jit
def _float4(x):
    """The codes of numbers in range: how many of the middles between magnitudes lie below, a tie counting if it leads to even."""
    size = tl.abs(x)
    code = (size > 0.25).to(tl.int32) + (size >= 0.75) + (size > 1.25) + (size >= 1.75)
    code += (size > 2.5).to(tl.int32) + (size >= 3.5) + (size > 5.0)
    return code + tl.where(x.to(tl.int32, bitcast=True) < 0, 8, 0)


@triton.jit
def _scale(peak, element: tl.constexpr, power: tl.constexpr):
    """The least scale under which numbers up to `peak` are in range, and its bits; NaN if `peak` is not finite."""
    largest: tl.constexpr = 448.0 if element == "fp8_e4m3" else 240.0 if element == "fp8_e4m3fnuz" else 6.0
    lost = (peak != peak) | (peak == float("inf"))
    if power:
        bits = peak.to(tl.int32, bitcast=True)
        shift: tl.constexpr = 9 if element == "fp8_e4m3" else 8 if element == "fp8_e4m3fnuz" else 3
        top: tl.constexpr = 0x600000 if element == "fp8_e4m3" else 0x700000 if element == "fp8_e4m3fnuz" else 0x400000
        exponent = (bits >> 23) - 126 - shift + ((bits & 0x7FFFFF) > top).to(tl.int32)
        exponent = tl.where(peak > 0.0, tl.minimum(tl.maximum(exponent, -127), 127), 0)
        stored = tl.where(lost, 255, exponent + 127).to(tl.uint8)
        found = factor(stored, True)
    else:
        by = tl.full(peak.shape, 127.0 if element == "int8" else largest, tl.float32)
        found = tl.maximum(tl.where(peak > 0.0, tl.div_rn(peak, by), 1.0), 1.1754943508222875e-38)
        found = tl.where(lost, float("nan"), found)
        stored = found
    return found, stored


@triton.jit
def _encoded(x, scale, element: tl.constexpr):
    largest: tl.constexpr = 448.0 if element == "fp8_e4m3" else 240.0 if element == "fp8_e4m3fnuz" else 6.0
    bound: tl.constexpr = 127.0 if element == "int8" else largest
    scaled = tl.div_rn(x, tl.broadcast_to(scale, x.shape))
    scaled = tl.where(scaled > bound, bound, tl.where(scaled < -bound, -bound, scaled))
    if element == "mxfp4":
        found = _float4(scaled)
    elif element == "int8":
        found = tl.where(scaled != scaled, 0.0, _nearest(scaled, 1.0)).to(tl.int8)
    else:
        found = _float8(scaled, element == "fp8_e4m3fnuz")
    return found


@triton.jit
def _peak(sizes, by_row: tl.constexpr, by_column: tl.constexpr):
    """The largest of a tile, of each row or of each column; NaN is larger than all."""
    sizes = tl.where(sizes != sizes, float("inf"), sizes)
    if by_row:
        found = tl.max(sizes, 1)[:, None]
    elif by_column:
        found = tl.max(sizes, 0)[None, :]
    else:
        found = tl.max(tl.max(sizes, 1), 0) + tl.zeros((1, 1), tl.float32)
    return found


@triton.jit
def _tile(x, row, column, row_end, column_end, columns):
    inside = (row < row_end)[:, None] & (column < column_end)[None, :]
    places = x + row.to(tl.int64)[:, None] * columns + column[None, :]
    return tl.load(places, mask=inside, other=0.0).to(tl.float32), inside


@triton.jit
def _quantize_block(
    x, data, scale, rows, columns, height, length, scale_rows, scale_columns,
    element: tl.constexpr, power: tl.constexpr, by_row: tl.constexpr, by_column: tl.constexpr,
    tall: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """A block with one scale; or some rows, or columns, each with its own. MXFP4's tiles are of even and of odd columns."""
    pair: tl.constexpr = 2 if element == "mxfp4" else 1
    matrix = tl.program_id(2).to(tl.int64)
    x, data = x + matrix * rows * columns, data + matrix * rows * (columns // pair)
    top, left = tl.program_id(0) * height, tl.program_id(1) * length
    bottom, right = tl.minimum(top + height, rows), tl.minimum(left + length, columns)
    peak = tl.zeros((tall if by_row else 1, wide if by_column else 1), tl.float32)
    for down in range(top, bottom, tall):
        for across in range(left, right, wide * pair):
            for odd in tl.static_range(pair):
                row, column = down + tl.arange(0, tall), across + pair * tl.arange(0, wide) + odd
                found, _ = _tile(x, row, column, bottom, right, columns)
                peak = tl.maximum(peak, _peak(tl.abs(found), by_row, by_column))
    by, stored = _scale(peak, element, power)
    at_row = top + tl.arange(0, tall) if by_row else tl.program_id(0) + tl.arange(0, 1)
    at_column = left + tl.arange(0, wide) if by_column else tl.program_id(1) + tl.arange(0, 1)
    kept = (at_row < scale_rows)[:, None] & (at_column < scale_columns)[None, :]
    scale += matrix * scale_rows * scale_columns
    tl.store(scale + at_row.to(tl.int64)[:, None] * scale_columns + at_column[None, :], stored, mask=kept)
    for down in range(top, bottom, tall):
        for across in range(left, right, wide * pair):
            row, column = down + tl.arange(0, tall), across + pair * tl.arange(0, wide)
            found, inside = _tile(x, row, column, bottom, right, columns)
            code = _encoded(found, by, element)
            if element == "mxfp4":
                after, _ = _tile(x, row, column + 1, bottom, right, columns)
                code = (code | (_encoded(after, by, element) << 4)).to(tl.uint8)
            to = data + row.to(tl.int64)[:, None] * (columns // pair) + (column // pair)[None, :]
            tl.store(to, code, mask=inside)


def quantize(x: Tensor, format: str, power_of_two: bool = True) -> tuple[Tensor, Tensor]:
    if checked(x) and not bool(x.isfinite().all()):
        raise ValueError(f"{format}: a value is not finite; no scale brings it into range")
    *stack, rows, columns = x.shape
    found = formats.parse(format)
    data = x.new_empty((*stack, rows, columns // found.packing), dtype=found.dtype)
    scale = x.new_empty((*stack, *found.scale_shape(rows, columns)), dtype=found.scale_dtype(power_of_two))
    bits, given, known = in_memory(data, scale, format)
    by_row, by_column = found.rows == 1, found.columns == 1
    height, length = TALL if by_row else found.rows or rows, WIDE if by_column else found.columns or columns
    wide = min(WIDE, int(triton.next_power_of_2(length)))
    matrices = x.numel() // max(rows * columns, 1)
    grid = (triton.cdiv(rows, max(height, 1)), triton.cdiv(columns, max(length, 1)), matrices)
    launch(
        _quantize_block, grid, x.contiguous(), bits, given, rows, columns, height, length, *scale.shape[-2:],
        element=found.element, power=known["power"], by_row=by_row, by_column=by_column, tall=TALL,
        wide=wide // found.packing,
    )  # fmt: skip
    return data, scale


def _quantize(signature: Signature) -> Support:
    format = signature["format"]
    try:
        found = formats.parse(format)
    except ValueError as error:
        return no("format", str(error))
    if answer := floats(signature, "x", of=ACTIVATIONS) and shapes(signature, x="... N K"):
        columns = signature["x"].shape[-1]
        even = columns % found.packing == 0
        return answer if even else no("shape", f"{format} packs two values a byte; {columns} is odd")
    return answer


@triton.jit
def _dequantize_tile(
    data, scale, y, rows, stored, scale_rows, scale_columns,
    element: tl.constexpr, tall: tl.constexpr, wide: tl.constexpr, power: tl.constexpr,
    height: tl.constexpr, length: tl.constexpr,
):  # fmt: skip
    pair: tl.constexpr = 2 if element == "mxfp4" else 1
    matrix = tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) * height + tl.arange(0, height)
    at = tl.program_id(1) * length + tl.arange(0, length)
    inside = (row < rows)[:, None] & (at < stored)[None, :]
    place = (matrix * rows + row)[:, None] * stored + at[None, :]
    bits = tl.load(data + place, mask=inside, other=0)
    down = row // tall if tall else row * 0
    across = at * pair // wide if wide else at * 0
    shared = (matrix * scale_rows + down)[:, None] * scale_columns + across[None, :]
    by = factor(tl.load(scale + shared, mask=inside, other=0), power)
    store_numbers(y, place, bits, by, inside, element)


def dequantize(data: Tensor, scale: Tensor, format: str, dtype: torch.dtype) -> Tensor:
    *stack, rows, packed = data.shape
    y = data.new_empty((*stack, rows, packed * formats.parse(format).packing), dtype=dtype)
    bits, given, known = in_memory(data.contiguous(), scale, format)
    grid = (triton.cdiv(rows, TALL), triton.cdiv(packed, WIDE), data.numel() // max(rows * packed, 1))
    sizes = {"height": TALL, "length": WIDE}
    launch(_dequantize_tile, grid, bits, given, y, rows, packed, *scale.shape[-2:], **known, **sizes)
    return y


def _dequantize(signature: Signature) -> Support:
    format = signature["format"]
    if format == formats.PLAIN or signature["dtype"] not in ACTIVATIONS:
        return no("format", "the kernel makes float32, float16 and bfloat16 of quantised numbers")
    return stored(signature["data"], signature["scale"], format)


KERNELS = (
    Kernel("quantize", "triton", quantize, _quantize),
    Kernel("dequantize", "triton", dequantize, _dequantize),
)
