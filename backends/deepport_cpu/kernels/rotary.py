"""Rotary embedding (`csrc/cpu/rotary.h`)."""

import torch
from torch import Tensor

from deepport.fit import dtypes, floats, shapes
from deepport.kernel import Kernel, Signature, Support, no
from deepport_cpu.native import call, dense, like


def rotary(x: Tensor, cos: Tensor, sin: Tensor, inverse: bool = False) -> Tensor:
    y = like(x)
    tokens, pairs = cos.shape
    heads = x.shape[1:-1].numel()
    call.rotary(dense(x), dense(cos), dense(sin), y, x.dtype, tokens, heads, x.shape[-1], pairs, inverse)
    return y


def _rotary(signature: Signature) -> Support:
    known = floats(signature, "x") and dtypes(signature, cos=torch.float32, sin=torch.float32)
    if known := known and shapes(signature, x="T ... D", cos="T R", sin="T R"):
        channels, pairs = signature["x"].shape[-1], signature["cos"].shape[-1]
        return known if 2 * pairs <= channels else no("shape", f"{channels} channels are not {pairs} pairs")
    return known


KERNELS = (Kernel("rotary", "native", rotary, _rotary),)
