"""Number formats as the kernels know them (`Format` in `csrc/cpu/types.h`)."""

from functools import lru_cache

import torch
from torch import Tensor

from deepport import formats
from deepport.fit import FLOATS
from deepport.kernel import YES, Support, TensorSpec, no

_ELEMENTS = ("float32", "bfloat16", "fp8_e4m3", "fp8_e4m3fnuz", "mxfp4", "int8")
"""In the order of `Element`."""

Numbers = tuple[int, bool, int, int]
"""Element, whether scales are powers of two, rows and columns of a block."""


def numbers(format: str, data: Tensor, scale: Tensor | None) -> Numbers:
    """Those of a tensor in a format."""
    return _numbers(format, data.dtype, None if scale is None else scale.dtype)


@lru_cache
def _numbers(format: str, data: torch.dtype, scale: torch.dtype | None) -> Numbers:
    if format == formats.PLAIN:
        return FLOATS.index(data), False, 0, 0
    found = formats.parse(format)
    return _ELEMENTS.index(found.element), scale == torch.float8_e8m0fnu, found.rows, found.columns


def packing(format: str) -> int:
    """Numbers in an element of the data."""
    return 1 if format == formats.PLAIN else formats.parse(format).packing


def stored(data: TensorSpec, scale: TensorSpec | None, format: str) -> Support:
    """YES if these can be a tensor of the format, with numbers that kernels take."""
    if format == formats.PLAIN:
        return YES if data.dtype in FLOATS and scale is None else no("dtype", "plain numbers are float32 or bfloat16")
    try:
        found = formats.parse(format)
    except ValueError as error:
        return no("format", str(error))
    if data.dtype != found.dtype or scale is None or len(data.shape) < 2:
        return no("format", f"data and scale are not {format}")
    if scale.dtype not in (found.scale_dtype(True), found.scale_dtype(False)):
        return no("dtype", f"a scale of {format} is not {scale.dtype}")
    shape = (*data.shape[:-2], *found.scale_shape(data.shape[-2], data.shape[-1] * found.packing))
    if scale.shape != shape:
        return no("shape", f"a scale {scale.shape} is not that of {format} data {data.shape}")
    return YES
