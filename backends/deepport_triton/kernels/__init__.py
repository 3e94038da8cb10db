"""The Triton kernels, by family; each operator's in the order in which they are asked."""

from deepport_triton.kernels import elementwise, engram, mhc, moe

KERNELS = (*elementwise.KERNELS, *engram.KERNELS, *mhc.KERNELS, *moe.KERNELS)
