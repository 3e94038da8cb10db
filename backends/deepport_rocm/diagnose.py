"""What `deepport doctor --device rocm` looks at beside the probe: nothing here imports torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from deepport.finding import Environment, Finding, among, numbers, ok, openable, unknown, variable, wrong
from deepport.probing import TorchBuild, printable, read
from deepport_rocm import wrong_build
from deepport_triton import architecture

if TYPE_CHECKING:
    from deepport_rocm import RocmBackend


def diagnose(backend: RocmBackend, environment: Environment = os.environ, root: Path = Path("/")) -> Iterator[Finding]:
    build = backend.build()
    unusable = backend.unusable()
    yield from (wrong("driver", c.what, c.remedy) for c in unusable)
    if not unusable:
        yield _driver(root, backend.kfd)
    built = wrong_build(build)
    yield from (wrong("torch", c.what, c.remedy) for c in built)
    if build and not built:
        yield ok("torch", f"{build.version}, built for HIP {build.hip}")
        yield _rccl(build)
    yield architecture.finding()
    yield _files(root / "dev" / "dri")
    for name in ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        yield variable(environment, name, "every GPU is seen", numbers if name != "ROCR_VISIBLE_DEVICES" else _any)
    override = "the chip's own architecture is used"
    yield variable(environment, "HSA_OVERRIDE_GFX_VERSION", override, _override)
    yield variable(
        environment, "AMD_SERIALIZE_KERNEL", "0; with 3 an error names its kernel", among("0", "1", "2", "3")
    )


def _driver(root: Path, kfd: Path) -> Finding:
    """AMD's own driver has a version; the kernel's amdgpu has the kernel's."""
    release = printable(read(root / "sys" / "module" / "amdgpu" / "version"))
    return ok("driver", f"{kfd} can be opened; amdgpu {release or 'of the Linux kernel'}")


def _files(dri: Path) -> Finding:
    return openable("device files", sorted(dri.glob("renderD*")) or [dri / "renderD128"], advice=True)


def _rccl(build: TorchBuild) -> Finding:
    found = sorted((build.folder / "lib").glob("librccl.so*"))
    if found:
        return ok("RCCL", f"in {found[0]}")
    return unknown("RCCL", "torch's folder does not have it; one process on one GPU needs none")


def _any(value: str) -> str:
    """ROCr takes UUIDs, too."""
    return "" if value else "hides every device"


def _override(value: str) -> str:
    return "kernels of another architecture are run; wrong results and crashes are then nobody's bug"
