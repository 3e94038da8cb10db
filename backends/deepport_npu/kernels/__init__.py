"""Kernels on fused operators of torch_npu and vllm-ascend, composites of torch operators that gain over references, and Triton's.

What a vendor operator takes is in `capabilities.toml` alone: a kernel asks the table before it says yes, so that no call fails
inside the vendor. Nothing here imports torch_npu before a kernel runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from deepport.kernel import Kernel
from deepport_npu.kernels import attention, custom, dense, index, mhc, moe, triton
from deepport_npu.kernels.chip import Chip


def kernels_for(family: str, versions: Mapping[str, str]) -> tuple[Kernel, ...]:
    """The kernels in the order in which they are asked, for a generation of chip ("A2", "A3", "A5"), which need not be there.

    `versions` has `torch_npu`, `cann` and `triton_ascend`. Kernels that cannot serve are listed too: they refuse, and say why.
    """
    chip = Chip(family, versions)
    return tuple(
        chain.from_iterable(part.kernels(chip) for part in (custom, dense, moe, index, attention, mhc, triton))
    )
