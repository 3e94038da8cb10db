"""The Triton kernels, by family; each operator's in the order in which they are asked."""

from deepport_triton.kernels import attention, elementwise, engram, index, mhc, moe

KERNELS = (*attention.KERNELS, *elementwise.KERNELS, *engram.KERNELS, *index.KERNELS, *mhc.KERNELS, *moe.KERNELS)
