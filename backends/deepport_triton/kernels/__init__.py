"""The Triton kernels, by family; each operator's in the order in which they are asked."""

from deepport_triton.kernels import (
    angles,
    attention,
    cache,
    compress,
    convolution,
    elementwise,
    engram,
    experts,
    gather,
    index,
    linear,
    mhc,
    moe,
    quantize,
)

KERNELS = (
    *angles.KERNELS,
    *attention.KERNELS,
    *cache.KERNELS,
    *compress.KERNELS,
    *convolution.KERNELS,
    *elementwise.KERNELS,
    *engram.KERNELS,
    *experts.KERNELS,
    *gather.KERNELS,
    *index.KERNELS,
    *linear.KERNELS,
    *mhc.KERNELS,
    *moe.KERNELS,
    *quantize.KERNELS,
)
