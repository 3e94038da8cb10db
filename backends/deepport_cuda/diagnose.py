"""What `deepport doctor --device cuda` looks at beside the probe: nothing here imports torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from deepport.finding import Environment, Finding, among, contained, numbers, ok, openable, unknown, variable, wrong
from deepport.probing import TorchBuild, package_version, read
from deepport_cuda import unusable, wrong_build
from deepport_triton import architecture

if TYPE_CHECKING:
    from deepport_cuda import CudaBackend


def diagnose(backend: CudaBackend, environment: Environment = os.environ, root: Path = Path("/")) -> Iterator[Finding]:
    build = backend.build()
    found, refusal = backend.ask()
    yield _kernel_driver(root)
    yield from (wrong("driver", c.what, c.remedy) for c in refusal)
    if found:
        yield ok("driver", "supports CUDA up to {}.{}".format(*found.cuda))
    built = wrong_build(build)
    yield from (wrong("torch", c.what, c.remedy) for c in built)
    if build and not built:
        yield ok("torch", f"{build.version}, built for CUDA {build.cuda}")
        if found:
            mismatched = unusable(build, found)
            yield from (wrong("driver with torch", c.what, c.remedy) for c in mismatched)
            if not mismatched:
                yield ok("driver with torch", "{}.{} runs a build for {}".format(*found.cuda, build.cuda))
        yield _nccl(build)
    yield architecture.finding()
    yield _files(root / "dev", found is not None)
    yield variable(environment, "CUDA_VISIBLE_DEVICES", "every GPU is seen", _visible)
    yield variable(environment, "CUDA_LAUNCH_BLOCKING", "0; with 1 an error names its kernel", among("0", "1"))


def _kernel_driver(root: Path) -> Finding:
    """The kernel module, as it tells itself; under WSL it is Windows'."""
    text = read(root / "proc" / "driver" / "nvidia" / "version")
    if release := re.search(r"Kernel Module[^\n]*?\s(\d+(?:\.\d+){1,3})\s", text):
        return ok("kernel driver", release[1])
    return unknown("kernel driver", f"{root / 'proc/driver/nvidia/version'} does not say its version")


def _files(dev: Path, answers: bool) -> Finding:
    """A driver that answers has all the files it needs: what may not be opened is then advice."""
    if (dev / "dxg").exists():  # WSL
        return openable("device files", [dev / "dxg"], advice=answers)
    gpus = sorted(p for p in dev.glob("nvidia*") if re.fullmatch(r"nvidia\d+", p.name)) or [dev / "nvidia0"]
    found = openable("device files", [*gpus, dev / "nvidiactl", dev / "nvidia-uvm"], advice=answers)
    if found.state == "not ok" and contained():
        return wrong(found.check, found.found, "start the container with --gpus all", found.advice)
    return found


def _nccl(build: TorchBuild) -> Finding:
    """A build of torch that needs NCCL does not load without it, so that its absence is seen when it starts."""
    package = f"nvidia-nccl-cu{build.cuda.partition('.')[0]}"
    if found := package_version(package):
        return ok("NCCL", f"{package} {found}")
    if (build.folder / "lib" / "libnccl.so.2").exists():
        return ok("NCCL", f"in {build.folder / 'lib'}")
    return unknown("NCCL", f"neither {package} nor torch's folder has it; one process on one GPU needs none")


def _visible(value: str) -> str:
    """GPUs are named by number, or by (the beginning of) their UUID."""
    if value.strip() == "-1":
        return "hides every device"
    return "" if re.match(r"(GPU|MIG)-", value) else numbers(value)
