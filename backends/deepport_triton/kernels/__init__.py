"""The Triton kernels, by family; each operator's in the order in which they are asked."""

from deepport_triton.kernels import elementwise, mhc

KERNELS = (*elementwise.KERNELS, *mhc.KERNELS)
