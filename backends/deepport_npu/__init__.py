"""The Ascend NPU backend, through torch_npu and CANN: kernels on the vendor's fused operators, and Triton's (`kernels/`)."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepport.backend import Probe, Runtime
from deepport.errors import BackendUnavailable, BadInput
from deepport.gap import Gap
from deepport.probing import Cause, TorchBuild, package_version, printable, reason, torch_build
from deepport_npu import cann, triton_ascend

if TYPE_CHECKING:
    from deepport.finding import Finding
    from deepport.kernel import Kernel


NOISE = "Cannot create tensor with internal format while allow_internal_format=False"
"""torch_npu warns of it once a process, to say that a tensor gets the base format: the one that is wanted here.

Another is left: `The current CANN and Soc versions require processing for 32 padding size`, of the first allocation. Native code
prints it, and the only switch there is, TORCH_NPU_WARNING_DISABLE, is for good and for every warning, those of failures too.
"""


def torch_npu_version() -> str:
    """The version of the torch_npu that can be imported, or ""."""
    return package_version("torch-npu") if find_spec("torch_npu") else ""


@dataclass(frozen=True)
class NpuBackend:
    """What the probe looks at: torch and torch_npu, CANN's folders and library, the driver's folder, device files, Triton."""

    build: Callable[[], TorchBuild | None] = torch_build
    torch_npu: Callable[[], str] = torch_npu_version
    load: Callable[[str], Any] = ctypes.CDLL
    roots: Sequence[Path] = field(default_factory=cann.roots)
    ascend: Path = cann.ASCEND
    dev: Path = Path("/dev")
    triton: Callable[[], str] = triton_ascend.version

    name = "npu"
    device_type = "npu"
    simulates = ""
    gaps = (
        Gap("*", "never", "torch_npu has no float8_e4m3fnuz, AMD's FP8", expires="2027-12-31", case="*fp8_e4m3fnuz*"),
    )

    def probe(self) -> Probe:
        versions = self._versions()
        library, causes = self.toolkit()
        causes = [*adapter(versions.get("torch_npu", ""), versions.get("torch", "")), *causes]
        count = cann.device_count(self.dev)
        if simulator := cann.simulator(library):  # it has no driver, and so no device files
            count, versions["cann"] = cann.simulated(library)
        elif "cann" not in versions and (told := cann.told(library)):
            versions["cann"] = told
        if not count:
            causes.append(
                Cause(
                    f"no Ascend device: {self.dev}/davinci0 does not exist",
                    "install the NPU driver, or pass the device into the container",
                )
            )
        if causes:
            return Probe(versions=versions, reason=reason(causes))
        return Probe((cann.device(cann.soc(library), simulator),) * count, versions, simulator=simulator)

    def _versions(self) -> dict[str, str]:
        build = self.build()
        found = {
            "torch": build.version if build else "",
            "torch_npu": self.torch_npu(),
            "cann": cann.version(self.roots),
            "driver": cann.driver_version(self.ascend),
            "vllm_ascend": package_version("vllm-ascend"),
            triton_ascend.NAME: self.triton(),
        }
        return {name: version for name, version in found.items() if version}

    def toolkit(self) -> tuple[Any, list[Cause]]:
        """CANN's library, or why it cannot be loaded."""
        try:
            return cann.runtime(self.load), []
        except OSError as error:
            if folder := cann.installed(self.roots):
                what = f"CANN in {folder} cannot be loaded: {printable(str(error))}"
                return None, [Cause(what, f"run `source {folder}/set_env.sh` first")]
            what = "CANN is not installed: libascendcl.so cannot be loaded"
            return None, [Cause(what, "install the CANN toolkit from hiascend.com and run `source set_env.sh`")]

    def diagnose(self) -> Iterator[Finding]:
        from deepport_npu.diagnose import diagnose

        return diagnose(self)

    def start(self) -> Runtime:
        # torch_npu registers the device type when it is imported; entry points switch off torch's own autoload of it,
        # which would fail `import torch` itself where CANN is absent.
        try:
            import torch_npu  # noqa: F401
        except Exception as error:  # a missing library, an ABI mismatch, an import hook: all are reasons, none is ours
            raise BackendUnavailable(f"npu: torch_npu cannot be imported: {printable(str(error))}") from error
        from deepport.runtime import TorchRuntime
        from deepport_npu import vllm_ascend

        warnings.filterwarnings("ignore", message=NOISE, category=UserWarning)
        vllm_ascend.load()
        return TorchRuntime("npu", blocking="ASCEND_LAUNCH_BLOCKING=1")

    def kernels(self) -> Sequence[Kernel]:
        probe = self.probe()
        return self.kernels_for(probe.devices[0].architecture if probe.devices else "", probe.versions)

    def kernels_for(self, family: str, versions: Mapping[str, str]) -> Sequence[Kernel]:
        """The kernels for a generation of chip ("A2", "A3", "A5") that need not be there, with these versions."""
        from deepport_npu.kernels import kernels_for

        return kernels_for(family, versions)

    def evidence(self, kernel: Kernel) -> str:
        """Of a Triton kernel: E3, accepted up to HIVM, but for the generations for which its IR was executed."""
        if kernel.name != "triton":
            return ""
        from deepport_npu.capability import FAMILIES
        from deepport_triton.accepted import executed

        found = [family for family in FAMILIES if executed(kernel.operator, f"ascend-{family.lower()}")]
        return f"E4 on {', '.join(found)}" if found else "E3"

    def on_paper(self, chip: str) -> tuple[str, Sequence[Kernel]]:
        """Kernels for a chip by any of its names ("910B", "Ascend910B2", "A2"), with the versions that the table speaks for."""
        from deepport_npu.capability import TORCH_NPU
        from deepport_npu.compatibility import made_for

        family = cann.family(chip)
        if not family:
            raise BadInput(f"--soc {chip}: no Ascend chip is called so; there are: {', '.join(cann.NAMES)}")
        triton = triton_ascend.wanted()
        versions = {"torch_npu": TORCH_NPU, "cann": made_for(TORCH_NPU), triton_ascend.NAME: triton}
        told = f"torch_npu is {versions['torch_npu']}, CANN {versions['cann']} and triton-ascend {triton}"
        assumed = f"generation {family}, if {told}"
        return assumed, self.kernels_for(family, versions)


def adapter(torch_npu: str, torch: str) -> list[Cause]:
    """torch_npu is there, and of torch's own release: it is built against torch's C++ interface."""
    if not torch_npu:
        return [Cause("torch_npu is not installed", "pip install 'deepport[npu]'")]
    release = ".".join(torch.split(".")[:2])
    if ".".join(torch_npu.split(".")[:2]) != release:
        return [Cause(f"torch_npu {torch_npu} does not fit torch {torch}", f"pip install 'torch-npu=={release}.*'")]
    return []


backend = NpuBackend()
