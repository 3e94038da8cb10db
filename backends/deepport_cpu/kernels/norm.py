"""Normalisation (`csrc/cpu/norm.h`)."""

from torch import Tensor

from deepport.fit import calls
from deepport.kernel import Kernel
from deepport_cpu.native import call, dense, like


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    y = like(x)
    call.rms_norm(dense(x), dense(weight), y, x.dtype, x.numel() // max(x.shape[-1], 1), x.shape[-1], eps)
    return y


KERNELS = (Kernel("rms_norm", "native", rms_norm, calls.rms_norm),)
