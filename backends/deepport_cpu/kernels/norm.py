"""Normalisation (`csrc/cpu/norm.h`)."""

import torch
from torch import Tensor

from deepport.fit import dtypes, floats, shapes
from deepport.kernel import Kernel, Signature, Support
from deepport_cpu.native import call, dense, like


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    y = like(x)
    call.rms_norm(dense(x), dense(weight), y, x.dtype, x.numel() // max(x.shape[-1], 1), x.shape[-1], eps)
    return y


def _rms_norm(signature: Signature) -> Support:
    return (
        floats(signature, "x") and dtypes(signature, weight=torch.float32) and shapes(signature, x="... D", weight="D")
    )


KERNELS = (Kernel("rms_norm", "native", rms_norm, _rms_norm),)
