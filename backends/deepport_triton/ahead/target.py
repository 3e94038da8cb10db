"""The chips that kernels are compiled for, and what a kernel may use of one.

Sources: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability" (shared memory of a block, less what the
system keeps); LLVM's AMDGPU usage guide and AMD's ISA guides (LDS of a work-group); Ascend's limits are its compiler's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deepport.errors import BadInput


@dataclass(frozen=True)
class Target:
    """One architecture.

    Attributes:
        name: what `--target` takes, and what a device of it calls its architecture.
        compiler: Triton's backend: `cuda`, `hip`, `npu`.
        architecture: its name there.
        threads: of a warp.
        shared: bytes of shared memory that one program may use; 0 where the compiler itself refuses more.
        instructions: those that multiply matrices, in the order in which they are wanted.
    """

    name: str
    compiler: str
    architecture: int | str
    threads: int = 32
    shared: int = 0
    instructions: tuple[str, ...] = ()

    @property
    def limit(self) -> int:
        """Registers of a thread: what the instruction set can name. AMD's matrix cores add accumulators to 256."""
        if self.compiler == "cuda":
            return 255
        return 512 if self.threads == 64 else 256


_MFMA = ("v_mfma",)

GPUS = (
    Target("sm_80", "cuda", 80, shared=163 << 10, instructions=("mma.sync",)),
    Target("sm_90", "cuda", 90, shared=227 << 10, instructions=("wgmma", "mma.sync")),
    Target("sm_100", "cuda", 100, shared=227 << 10, instructions=("tcgen05.mma", "mma.sync")),
    Target("sm_120", "cuda", 120, shared=99 << 10, instructions=("mma.sync",)),
    Target("gfx90a", "hip", "gfx90a", 64, 64 << 10, _MFMA),
    Target("gfx942", "hip", "gfx942", 64, 64 << 10, _MFMA),
    Target("gfx950", "hip", "gfx950", 64, 160 << 10, _MFMA),
    Target("gfx1100", "hip", "gfx1100", 32, 64 << 10, ("v_wmma",)),
)
NPUS = (
    Target("ascend-a2", "npu", "Ascend910B3"),
    Target("ascend-a3", "npu", "Ascend910_9382"),
    Target("ascend-a5", "npu", "Ascend950PR_9589"),
)
TARGETS = {target.name: target for target in (*GPUS, *NPUS)}


def find(names: Sequence[str]) -> tuple[Target, ...]:
    """The targets of these names, every GPU for none. Raises BadInput."""
    for name in names:
        if name not in TARGETS:
            raise BadInput(f"--target {name}: no target is called so; there are: {', '.join(TARGETS)}")
    return tuple(TARGETS[name] for name in dict.fromkeys(names)) or GPUS
