"""Triton kernels, one source for CUDA, ROCm and Ascend; and a backend that runs them on CPU tensors in Triton's interpreter.

`deepport conform --device interpreter` judges what the kernels mean, on a machine without any chip: evidence E4. The backends
of the chips take the same kernels from `kernels.KERNELS`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from deepport.backend import Device, Probe, Runtime
from deepport.errors import BackendUnavailable
from deepport.probing import package_version

if TYPE_CHECKING:
    from deepport.kernel import Kernel


class InterpreterBackend:
    name = "interpreter"
    device_type = "cpu"
    simulates = "cuda"

    def probe(self) -> Probe:
        if not (version := package_version("triton")):
            return Probe(reason="triton is not installed; pip install 'deepport[triton]'")
        device = Device("Triton's interpreter", formats=("float32", "float16", "bfloat16"))
        return Probe((device,), {"triton": version}, simulator="Triton's interpreter")

    def start(self) -> Runtime:
        if "deepport_triton.kernels" in sys.modules and not interpreting():
            raise BackendUnavailable(
                "the Triton kernels of this process are compiled for a chip; interpret them in another"
            )
        os.environ["TRITON_INTERPRET"] = "1"
        from deepport.runtime import HostRuntime
        from deepport_triton.interpreter import correct

        correct()
        return HostRuntime()

    def kernels(self) -> Sequence[Kernel]:
        from deepport_triton.kernels import KERNELS

        return KERNELS


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter in this process: it is decided when they are imported."""
    return os.environ.get("TRITON_INTERPRET") == "1"


backend = InterpreterBackend()
