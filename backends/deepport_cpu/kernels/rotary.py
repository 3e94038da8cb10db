"""Rotary embedding (`csrc/cpu/rotary.h`)."""

from torch import Tensor

from deepport.fit import calls
from deepport.kernel import Kernel
from deepport_cpu.native import call, dense, like


def rotary(x: Tensor, cos: Tensor, sin: Tensor, inverse: bool = False) -> Tensor:
    y = like(x)
    tokens, pairs = cos.shape
    heads = x.shape[1:-1].numel()
    call.rotary(dense(x), dense(cos), dense(sin), y, x.dtype, tokens, heads, x.shape[-1], pairs, inverse)
    return y


KERNELS = (Kernel("rotary", "native", rotary, calls.rotary),)
