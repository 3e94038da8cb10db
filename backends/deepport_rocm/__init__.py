"""The ROCm backend: AMD GPUs, through a ROCm build of torch, by the kernels of deepport_triton.

Where Triton is not installed, references serve, on the GPU.

Such a build calls its devices `cuda`; this backend and deepport_cuda tell them apart by how torch was built.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deepport.backend import Probe, Runtime
from deepport.probing import Cause, TorchBuild, reason, torch_build
from deepport_rocm import topology
from deepport_triton.architecture import AMD, installed, kernels_for, on_paper

if TYPE_CHECKING:
    from deepport.bench.peak import Peak
    from deepport.finding import Finding
    from deepport.kernel import Kernel


@dataclass(frozen=True)
class RocmBackend:
    """`build`, `nodes` and `kfd` are what the probe looks at: the installed torch, and the kernel driver's files.

    libamdhip64.so is not loaded: ROCm builds of torch bring their own, and a second one in the process breaks it.
    """

    build: Callable[[], TorchBuild | None] = torch_build
    nodes: Path = topology.TOPOLOGY
    kfd: Path = Path("/dev/kfd")

    name = "rocm"
    device_type = "cuda"
    simulates = ""

    def probe(self) -> Probe:
        build = self.build()
        versions = {"torch": build.version, "hip": build.hip} if build and build.hip else {}
        versions |= {"triton": triton} if (triton := installed()) else {}
        causes = [*wrong_build(build), *self.unusable()]
        if causes:
            return Probe(versions=versions, reason=reason(causes))
        if devices := topology.devices(self.nodes):
            return Probe(devices, versions)
        return Probe(versions=versions, reason=f"the amdgpu driver lists no GPU in {self.nodes}; check `rocminfo`")

    def unusable(self) -> list[Cause]:
        """Why the driver cannot be used."""
        if not self.kfd.exists():
            return [
                Cause(
                    f"no AMD driver: {self.kfd} does not exist",
                    "install the amdgpu driver, or start the container with --device /dev/kfd --device /dev/dri",
                )
            ]
        if not os.access(self.kfd, os.R_OK | os.W_OK):
            return [Cause(f"{self.kfd} may not be opened", "add your user to the groups render and video")]
        return []

    def diagnose(self) -> Iterator[Finding]:
        from deepport_rocm.diagnose import diagnose

        return diagnose(self)

    def start(self) -> Runtime:
        from deepport.runtime import TorchRuntime

        return TorchRuntime("cuda", blocking="HIP_LAUNCH_BLOCKING=1")

    def kernels(self) -> Sequence[Kernel]:
        return kernels_for((d.architecture for d in self.probe().devices), AMD)

    def peaks(self, beyond: int) -> Iterator[Peak]:
        from deepport_triton.peaks import peaks

        return peaks(beyond)

    def on_paper(self, chip: str) -> tuple[str, Sequence[Kernel]]:
        """Kernels for an architecture, as in `--soc gfx942`."""
        return on_paper(chip, AMD)


def wrong_build(build: TorchBuild | None) -> list[Cause]:
    if build is None:
        return [Cause("torch is not installed", "install a ROCm build of torch")]
    if build.hip:
        return []
    return [
        Cause(f"this torch ({build.version}) is built without ROCm", f"install a ROCm build of torch {build.release}")
    ]


backend = RocmBackend()
