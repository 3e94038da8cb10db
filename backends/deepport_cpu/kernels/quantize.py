"""Quantised tensors as plain ones (`csrc/cpu/quantize.h`)."""

import torch
from torch import Tensor

from deepport import formats
from deepport.kernel import Kernel, Signature, Support, no
from deepport_cpu.native import FLOATS, call, dense
from deepport_cpu.numbers import numbers, stored


def dequantize(data: Tensor, scale: Tensor, format: str, dtype: torch.dtype) -> Tensor:
    *stack, rows, packed = data.shape
    columns = packed * formats.parse(format).packing
    values = torch.empty((*stack, rows, columns), dtype=dtype)
    matrices = values.numel() // max(rows * columns, 1)
    of = numbers(format, data.dtype, scale.dtype)
    call.dequantize(dense(data), dense(scale), of, values, dtype, matrices, rows, columns)
    return values


def _dequantize(signature: Signature) -> Support:
    format = signature["format"]
    if format == formats.PLAIN or signature["dtype"] not in FLOATS:
        return no("format", "the kernel makes float32 and bfloat16 of quantised numbers")
    return stored(signature["data"], signature["scale"], format)


KERNELS = (Kernel("dequantize", "native", dequantize, _dequantize),)
