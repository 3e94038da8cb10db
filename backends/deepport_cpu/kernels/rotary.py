"""Rotary embedding (`csrc/cpu/rotary.h`)."""

import torch
from torch import Tensor

from deepport.kernel import Kernel, Signature, Support
from deepport_cpu.native import call, dense, dtypes, floats, like


def rotary(x: Tensor, cos: Tensor, sin: Tensor, inverse: bool = False) -> Tensor:
    y = like(x)
    tokens, pairs = cos.shape
    heads = x.shape[1] if x.dim() == 3 else 1
    call.rotary(dense(x), dense(cos), dense(sin), y, x.dtype, tokens, heads, x.shape[-1], pairs, inverse)
    return y


def _rotary(signature: Signature) -> Support:
    return floats(signature, "x") and dtypes(signature, cos=torch.float32, sin=torch.float32)


KERNELS = (Kernel("rotary", "native", rotary, _rotary),)
