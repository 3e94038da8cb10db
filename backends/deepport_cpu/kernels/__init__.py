"""The CPU's kernels: those in C++ (`native`), then what torch has (`onednn`), each operator's in the order they are asked."""

from deepport_cpu.kernels import (
    angles,
    attention,
    cache,
    compress,
    engram,
    experts,
    gather,
    linear,
    mhc,
    mhc_backward,
    moe,
    norm,
    onednn,
    quantize,
    rotary,
)

KERNELS = (
    *angles.KERNELS,
    *attention.KERNELS,
    *cache.KERNELS,
    *compress.KERNELS,
    *engram.KERNELS,
    *experts.KERNELS,
    *gather.KERNELS,
    *linear.KERNELS,
    *mhc.KERNELS,
    *mhc_backward.KERNELS,
    *moe.KERNELS,
    *norm.KERNELS,
    *quantize.KERNELS,
    *rotary.KERNELS,
    *onednn.KERNELS,
)
