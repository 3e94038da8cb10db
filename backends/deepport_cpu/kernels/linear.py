"""Linear layers in every number format (`csrc/cpu/linear.h`). Weights are read as they lie: one with gaps is left to others."""

from math import prod

import torch
from torch import Tensor

from deepport import formats
from deepport.fit import floats, packing, shapes, stored
from deepport.kernel import Kernel, Signature, Support, TensorSpec, no
from deepport_cpu import _levels, scratch
from deepport_cpu.native import call, dense
from deepport_cpu.numbers import numbers

_MANY = 128
"""Tokens from which on oneDNN is the faster one, by tiles."""


def linear(
    x: Tensor, w: Tensor, scale: Tensor | None = None, format: str = formats.PLAIN, wide: bool = False
) -> Tensor:
    y = torch.empty((*x.shape[:-1], w.shape[0]), dtype=torch.float32 if wide else x.dtype)
    return _multiplied(x, w, scale, format, y, x.shape[:-1].numel(), 1)


def block_linear(x: Tensor, w: Tensor, scale: Tensor | None = None, format: str = formats.PLAIN) -> Tensor:
    tokens, groups, _ = x.shape
    return _multiplied(x, w, scale, format, torch.empty((tokens, groups, w.shape[1]), dtype=x.dtype), tokens, groups)


def _multiplied(x: Tensor, w: Tensor, scale: Tensor | None, format: str, y: Tensor, tokens: int, groups: int) -> Tensor:
    """y, which becomes what x [tokens, groups, columns] and w [groups, rows, columns] give."""
    of = numbers(format, w, scale)
    call.linear(
        dense(x), w, dense(scale), y, x.dtype, y.dtype, of, tokens, groups, w.shape[-2], x.shape[-1],
    )  # fmt: skip
    return y


def _stored(signature: Signature) -> Support:
    """YES if w is a tensor of its format that can be read as it lies."""
    answer = floats(signature, "x") and stored(signature["w"], signature["scale"], signature["format"])
    if answer and not signature["w"].contiguous:
        return no("layout", "w is not contiguous, and a copy would be read and written")
    return answer


def _left(x: TensorSpec) -> bool:
    """Whether oneDNN is faster, which reads plain weights only: 1.0 to 1.5 times as fast by tiles, level with us without them."""
    return _levels.chosen() == "amx" and x.dtype == torch.bfloat16 and prod(x.shape[:-1]) >= _MANY


def _linear(signature: Signature) -> Support:
    answer = _stored(signature)
    if signature["format"] == formats.PLAIN and not signature["wide"] and _left(signature["x"]):
        return no("shape", f"oneDNN multiplies {_MANY} tokens and more by tiles faster")
    return answer and shapes(signature, w="N P", x=f"... {packing(signature['format'])}*P")


def _block_linear(signature: Signature) -> Support:
    answer = _stored(signature)
    return answer and shapes(signature, w="G N P", x=f"T G {packing(signature['format'])}*P")


KERNELS = (
    Kernel("linear", "native", linear, _linear, keeps=scratch.of_linear),
    Kernel("block_linear", "native", block_linear, _block_linear, keeps=scratch.of_linear),
)
