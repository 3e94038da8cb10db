"""The CUDA backend: NVIDIA GPUs, through a CUDA build of torch, by the kernels of deepport_triton.

Where Triton is not installed, references serve, on the GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepport.backend import Probe, Runtime
from deepport.probing import Cause, TorchBuild, reason, torch_build
from deepport_cuda import driver
from deepport_triton.architecture import NVIDIA, installed, kernels_for, on_paper

if TYPE_CHECKING:
    from deepport.bench.peak import Peak
    from deepport.finding import Finding
    from deepport.kernel import Kernel


@dataclass(frozen=True)
class CudaBackend:
    """`build` and `load` are what the probe looks at: the installed torch, and the driver's library."""

    build: Callable[[], TorchBuild | None] = torch_build
    load: Callable[[str], Any] = ctypes.CDLL

    name = "cuda"
    device_type = "cuda"
    simulates = ""

    def probe(self) -> Probe:
        build = self.build()
        versions = {"torch": build.version} if build else {}
        versions |= {"triton": triton} if (triton := installed()) else {}
        found, refusal = self.ask()
        causes = [*wrong_build(build), *refusal]
        if found is None:
            return Probe(versions=versions, reason=reason(causes))
        versions["driver"] = "CUDA {}.{}".format(*found.cuda)
        causes += unusable(build, found)
        return Probe(versions=versions, reason=reason(causes)) if causes else Probe(found.devices, versions)

    def ask(self) -> tuple[driver.Driver | None, list[Cause]]:
        """What the driver says, or why it says nothing."""
        try:
            return driver.query(self.load), []
        except OSError:
            what = "no NVIDIA driver: libcuda.so.1 cannot be loaded"
            return None, [Cause(what, "install the driver of your NVIDIA GPU")]
        except driver.DriverError as error:
            return None, [Cause(f"the NVIDIA driver finds no usable GPU: {error}", _CHECK)]

    def diagnose(self) -> Iterator[Finding]:
        from deepport_cuda.diagnose import diagnose

        return diagnose(self)

    def start(self) -> Runtime:
        from deepport.runtime import TorchRuntime

        return TorchRuntime("cuda", blocking="CUDA_LAUNCH_BLOCKING=1")

    def kernels(self) -> Sequence[Kernel]:
        return kernels_for((d.architecture for d in self.probe().devices), NVIDIA)

    def peaks(self, beyond: int) -> Iterator[Peak]:
        from deepport_triton.peaks import peaks

        return peaks(beyond)

    def on_paper(self, chip: str) -> tuple[str, Sequence[Kernel]]:
        """Kernels for an architecture, as in `--soc sm_90`."""
        return on_paper(chip, NVIDIA)


_CHECK = "check CUDA_VISIBLE_DEVICES and `nvidia-smi`"


def wrong_build(build: TorchBuild | None) -> list[Cause]:
    if build is None:
        return [Cause("torch is not installed", "install a CUDA build of torch")]
    remedy = f"install a CUDA build of torch {build.release}"
    if build.hip:
        return [Cause(f"this torch ({build.version}) is built for ROCm, which the rocm backend serves", remedy)]
    return [] if build.cuda else [Cause(f"this torch ({build.version}) is built without CUDA", remedy)]


def unusable(build: TorchBuild | None, found: driver.Driver) -> list[Cause]:
    """A driver that is there, but without devices, or too old for this torch."""
    if not found.devices:
        return [Cause("the NVIDIA driver finds no GPU", _CHECK)]
    needs = int(build.cuda.partition(".")[0]) if build and build.cuda[:1].isdigit() else 0
    # Within a major version of CUDA an older driver runs a newer build ("minor version compatibility").
    if build and needs > found.cuda[0]:
        supports = "{}.{}".format(*found.cuda)
        return [
            Cause(
                f"the NVIDIA driver supports CUDA {supports} and this torch ({build.version}) is built for {build.cuda}",
                f"update the driver, or install a torch built for CUDA {found.cuda[0]}",
            )
        ]
    return []


backend = CudaBackend()
