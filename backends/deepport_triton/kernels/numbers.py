"""Numbers in every format as the kernels read them: bits of memory become float32 in registers, on any chip.

No chip has to know a format. The bits of an FP8 or FP4 number, moved to the top of a float16, are that number times a power of
two, subnormal ones too; which chip converts in hardware is its compiler's to see.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepport import formats
from deepport.fit import packing, shapes, stored
from deepport.kernel import YES, Signature, Support, no
from deepport_triton.kernels.elementwise import ACTIVATIONS

_NARROWEST = 32
"""Columns of the least block that may share a scale: what a matrix instruction wants at a time."""


def bits(t: Tensor) -> Tensor:
    """The same memory as integers: what is only moved has no format."""
    return t.view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[t.element_size()])


def in_memory(data: Tensor, scale: Tensor | None, format: str) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Data and scale as kernels take them, and what they have to know: element, rows and columns that share a scale."""
    if format == formats.PLAIN:
        return data, data, {"element": "plain", "tall": 1, "wide": 0, "power": False}
    found, power = formats.parse(format), scale is not None and scale.dtype == torch.float8_e8m0fnu
    known = {"element": found.element, "tall": found.rows, "wide": found.columns, "power": power}
    data = data if found.element == "int8" else data.view(torch.uint8)
    given = data if scale is None else scale.contiguous()
    return data, given.view(torch.uint8) if power else given, known


def weight(signature: Signature, shape: str, x: str) -> Support:
    """YES if `w`, `scale` and `format` are a matrix, or several, that lies in memory without gaps, and x fits."""
    w, scale, format = signature["w"], signature["scale"], signature["format"]
    if answer := readable(w, scale, format):
        return shapes(signature, w=shape, x=x.replace("columns", f"{packing(format)}*P"))
    return answer


def readable(w: Any, scale: Any, format: str) -> Support:
    """YES if a kernel can multiply by these matrices as they lie."""
    if not (answer := stored(w, scale, format, of=ACTIVATIONS)):
        return answer
    if not w.contiguous:
        return no("layout", "the weight is not contiguous, and a copy would be read and written")
    wide = 0 if format == formats.PLAIN else formats.parse(format).columns
    return (
        YES if wide in (0, 1) or wide % _NARROWEST == 0 else no("format", f"{format} shares scales by {wide} columns")
    )


@triton.jit
def number(bits, element: tl.constexpr):
    """float32 of elements; of MXFP4, of the low half of the byte."""
    if element == "fp8_e4m3":
        half = (((bits & 0x80).to(tl.uint16) << 8) | ((bits & 0x7F).to(tl.uint16) << 7)).to(tl.float16, bitcast=True)
        found = tl.where((bits & 0x7F) == 0x7F, float("nan"), half.to(tl.float32) * 256.0)
    elif element == "fp8_e4m3fnuz":
        half = (((bits & 0x80).to(tl.uint16) << 8) | ((bits & 0x7F).to(tl.uint16) << 7)).to(tl.float16, bitcast=True)
        found = tl.where(bits == 0x80, float("nan"), half.to(tl.float32) * 128.0)
    elif element == "mxfp4":
        half = (((bits & 8).to(tl.uint16) << 12) | ((bits & 7).to(tl.uint16) << 9)).to(tl.float16, bitcast=True)
        found = half.to(tl.float32) * 16384.0
    else:
        found = bits.to(tl.float32)
    return found


@triton.jit
def factor(scale, power: tl.constexpr):
    """float32 of scales; UE8M0 is the exponent alone, 255 is NaN."""
    if power:
        exponent = scale.to(tl.int32)
        known = tl.where(exponent == 0, 0x00400000, exponent << 23).to(tl.float32, bitcast=True)
        found = tl.where(exponent == 255, float("nan"), known)
    else:
        found = scale
    return found


@triton.jit
def store_numbers(y, place, bits, by, inside, element: tl.constexpr):
    """Elements times scales, in y's type; a byte of MXFP4 is two numbers, side by side."""
    if element == "mxfp4":
        tl.store(y + 2 * place, (number(bits & 15, element) * by).to(y.dtype.element_ty), mask=inside)
        tl.store(y + 2 * place + 1, (number(bits >> 4, element) * by).to(y.dtype.element_ty), mask=inside)
    else:
        tl.store(y + place, (number(bits, element) * by).to(y.dtype.element_ty), mask=inside)


@triton.jit
def product(
    x, x_row, x_there, w, scale, row, row_there, columns,
    element: tl.constexpr, tall: tl.constexpr, wide: tl.constexpr, power: tl.constexpr,
    rows: tl.constexpr, outs: tl.constexpr, step: tl.constexpr,
):  # fmt: skip
    """`x @ w^T` of some rows of x, which begin at `x_row [rows]`, and some of a matrix, `row [outs]`: float32 [rows, outs].

    A scale multiplies the sum over the columns that share it: elements then need not be rounded, whatever x is. `step` columns
    are summed at a time, all with one scale.
    """
    total = tl.zeros((rows, outs), tl.float32)
    begins = row.to(tl.int64) * (columns // 2 if element == "mxfp4" else columns)
    scales = scale + (row // tall if tall else row * 0).to(tl.int64) * ((columns + wide - 1) // wide if wide else 1)
    for begin in range(0, columns, step):
        if element == "mxfp4":
            pair = begin // 2 + tl.arange(0, step // 2)
            seen = x_there[:, None] & (pair < columns // 2)[None, :]
            places = w + begins[:, None] + pair[None, :]
            both = tl.load(places, mask=row_there[:, None] & (pair < columns // 2)[None, :], other=0)
            kind: tl.constexpr = x.dtype.element_ty
            even = tl.load(x + x_row[:, None] + 2 * pair[None, :], mask=seen, other=0.0)
            odd = tl.load(x + x_row[:, None] + 2 * pair[None, :] + 1, mask=seen, other=0.0)
            part = tl.dot(even, tl.trans(number(both & 15, element).to(kind)), input_precision="ieee")
            part = tl.dot(odd, tl.trans(number(both >> 4, element).to(kind)), part, input_precision="ieee")
        else:
            column = begin + tl.arange(0, step)
            seen = x_there[:, None] & (column < columns)[None, :]
            own = tl.load(x + x_row[:, None] + column[None, :], mask=seen, other=0.0)
            there = row_there[:, None] & (column < columns)[None, :]
            found = tl.load(w + begins[:, None] + column[None, :], mask=there, other=0)
            if element == "plain":
                if (own.dtype == tl.float32) | (found.dtype == tl.float32):  # triton-ascend has no `or` of booleans
                    own, found = own.to(tl.float32), found.to(tl.float32)
            elif wide == 1:  # a scale for every column, which is in x's numbers then
                by = factor(tl.load(scale + column, mask=column < columns, other=0.0), power)
                own, found = own.to(tl.float32) * by[None, :], number(found, element)
            else:
                found = number(found, element).to(own.dtype)
            part = tl.dot(own, tl.trans(found), input_precision="ieee")
        if element == "plain" or wide == 1:
            total += part
        else:
            by = tl.load(scales + (begin // wide if wide else 0), mask=row_there, other=0)
            total += part * factor(by, power)[None, :]
    return total
