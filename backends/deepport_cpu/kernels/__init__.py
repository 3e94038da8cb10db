"""The CPU's kernels: those in C++ (`native`), then what torch has (`onednn`), each operator's in the order they are asked."""

from deepport_cpu.kernels import angles, attention, mhc, moe, norm, onednn

KERNELS = (
    *angles.KERNELS,
    *attention.KERNELS,
    *mhc.KERNELS,
    *moe.KERNELS,
    *norm.KERNELS,
    *onednn.KERNELS,
)
