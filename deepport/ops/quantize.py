"""Conversions between float tensors and quantised ones (`deepport.formats`)."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor

from deepport import formats
from deepport.op import operator
from deepport.spec import EXACT, FLOATS, Case, Cost, case, nbytes, normal

FORMATS = (
    "fp8_e4m3:128x128",
    "fp8_e4m3:32x32",
    "fp8_e4m3:1x32",
    "fp8_e4m3fnuz:128x128",
    "mxfp4",
    "int8:row",
    "int8:channel",
)


def quantize_arguments(
    g: Generator, shape: tuple[int, ...], format: str, power_of_two: bool, dtype: torch.dtype
) -> dict[str, Any]:
    return {"x": normal(g, *shape, dtype=dtype, scale=7.0), "format": format, "power_of_two": power_of_two}


def _quantize_cases() -> Iterator[Case]:
    for format in FORMATS:
        for shape in ((1, 64), (40, 160), (2, 130, 64)):
            for dtype in FLOATS:
                yield case(quantize_arguments, shape=shape, format=format, power_of_two=True, dtype=dtype)
    yield case(quantize_arguments, shape=(40, 160), format="fp8_e4m3:128x128", power_of_two=False, dtype=torch.float32)


def _quantize_fake(x: Tensor, format: str, power_of_two: bool = True) -> tuple[Tensor, Tensor]:
    found = formats.parse(format)
    rows, columns = x.shape[-2:]
    return (
        x.new_empty((*x.shape[:-1], columns // found.packing), dtype=found.dtype),
        x.new_empty((*x.shape[:-2], *found.scale_shape(rows, columns)), dtype=found.scale_dtype(power_of_two)),
    )


@operator(
    cost=lambda x, format, power_of_two=True: Cost(4.0 * x.numel(), nbytes(x) + x.numel()),
    cases=_quantize_cases,
    tolerance=EXACT,
    fake=_quantize_fake,
)
def quantize(x: Tensor, format: str, power_of_two: bool = True) -> tuple[Tensor, Tensor]:
    """`data = round(x / scale)`, the scale being the least under which a block's values are in range.

    x [..., N, K]; format as in `deepport.formats`; FP8 scales are UE8M0 with `power_of_two`, else float32. Rounds to nearest,
    ties to even. Returns (data, scale). Raises ValueError for values that are not finite. Has no gradient: quantised weights
    are for inference.
    """
    return formats.encode(x.detach(), format, power_of_two)


def dequantize_arguments(g: Generator, shape: tuple[int, ...], format: str, dtype: torch.dtype) -> dict[str, Any]:
    data, scale = formats.encode(normal(g, *shape, scale=7.0), format)
    return {"data": data, "scale": scale, "format": format, "dtype": dtype}


def _dequantize_cases() -> Iterator[Case]:
    for format in FORMATS:
        for dtype in FLOATS:
            yield case(dequantize_arguments, shape=(2, 130, 64), format=format, dtype=dtype)


def _dequantize_fake(data: Tensor, scale: Tensor, format: str, dtype: torch.dtype) -> Tensor:
    return data.new_empty((*data.shape[:-1], data.shape[-1] * formats.parse(format).packing), dtype=dtype)


@operator(
    cost=lambda data, scale, format, dtype: Cost(
        1.0 * data.numel(), nbytes(data, scale) + data.numel() * dtype.itemsize
    ),
    cases=_dequantize_cases,
    tolerance=EXACT,
    fake=_dequantize_fake,
)
def dequantize(data: Tensor, scale: Tensor, format: str, dtype: torch.dtype) -> Tensor:
    """`element * scale` in `dtype`, computed in float32 and rounded once.

    data and scale of a tensor `[..., N, K]` in the given format (`deepport.formats`).
    """
    return formats.decode(data, scale, format, dtype)
