"""Quantised tensors as plain ones, and plain ones quantised (`csrc/cpu/quantize.h`)."""

import torch
from torch import Tensor

from deepport import formats
from deepport.fit import FLOATS, floats, shapes, stored
from deepport.kernel import Kernel, Signature, Support, no
from deepport_cpu.native import call, dense
from deepport_cpu.numbers import numbers


def dequantize(data: Tensor, scale: Tensor, format: str, dtype: torch.dtype) -> Tensor:
    *stack, rows, packed = data.shape
    columns = packed * formats.parse(format).packing
    values = torch.empty((*stack, rows, columns), dtype=dtype)
    matrices = values.numel() // max(rows * columns, 1)
    of = numbers(format, data, scale)
    call.dequantize(dense(data), dense(scale), of, values, dtype, matrices, rows, columns)
    return values


def quantize(x: Tensor, format: str, power_of_two: bool = True) -> tuple[Tensor, Tensor]:
    *stack, rows, columns = x.shape
    found = formats.parse(format)
    data = torch.empty((*stack, rows, columns // found.packing), dtype=found.dtype)
    scale = torch.empty((*stack, *found.scale_shape(rows, columns)), dtype=found.scale_dtype(power_of_two))
    matrices = x.numel() // max(rows * columns, 1)
    of = numbers(format, data, scale)
    call.quantize(dense(x), x.dtype, data, scale, of, matrices, rows, columns)
    return data, scale


def _dequantize(signature: Signature) -> Support:
    format = signature["format"]
    if format == formats.PLAIN or signature["dtype"] not in FLOATS:
        return no("format", "the kernel makes float32 and bfloat16 of quantised numbers")
    return stored(signature["data"], signature["scale"], format)


def _quantize(signature: Signature) -> Support:
    format = signature["format"]
    try:
        packing = formats.parse(format).packing
    except ValueError as error:
        return no("format", str(error))
    if answer := floats(signature, "x") and shapes(signature, x="... N K"):
        columns = signature["x"].shape[-1]
        return answer if columns % packing == 0 else no("shape", f"{format} packs two values a byte; {columns} is odd")
    return answer


KERNELS = (
    Kernel("dequantize", "native", dequantize, _dequantize),
    Kernel("quantize", "native", quantize, _quantize),
)
