"""Number formats as the kernels know them (`Format` in `csrc/cpu/types.h`)."""

from functools import lru_cache

import torch
from torch import Tensor

from deepport import formats
from deepport.fit import FLOATS

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
