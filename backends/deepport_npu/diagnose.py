"""What `deepport doctor --device npu` looks at beside the probe: nothing here imports torch or torch_npu."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from deepport.finding import (
    Environment,
    Finding,
    among,
    contained,
    folder,
    numbers,
    ok,
    openable,
    unknown,
    variable,
    version,
    wrong,
)
from deepport_npu import adapter, cann, compatibility, triton_ascend

if TYPE_CHECKING:
    from deepport_npu import NpuBackend

_DRIVER_FILES = ("davinci_manager", "devmm_svm", "hisi_hdc")
"""What A2 and A3 need beside their `davinci<number>` (MindCluster, default content mounted by Ascend Docker Runtime)."""


def diagnose(backend: NpuBackend, environment: Environment = os.environ) -> Iterator[Finding]:
    probe = backend.probe()
    versions = {name: probe.versions.get(name, "") for name in ("torch", "torch_npu", "cann", "driver")}
    _, causes = backend.toolkit()
    simulated = bool(probe.simulator)
    yield ok("driver", "a simulator needs none") if simulated else _driver(backend.ascend, backend.dev)
    yield from (wrong("CANN", c.what, c.remedy) for c in causes)
    if not causes:
        yield version("CANN", versions["cann"], "CANN")
    yield (
        ok("torch", versions["torch"]) if versions["torch"] else wrong("torch", "is not installed", "pip install torch")
    )
    mismatched = adapter(versions["torch_npu"], versions["torch"])
    yield from (wrong("torch_npu", c.what, c.remedy) for c in mismatched)
    if not mismatched:
        yield ok("torch_npu", f"{versions['torch_npu']}, for this torch")
    yield compatibility.with_cann(versions["torch_npu"], versions["cann"])
    if not simulated:
        yield compatibility.with_driver(versions["cann"], versions["driver"])
        yield from _files(backend.dev)
    yield _hccl(backend)
    yield triton_ascend.finding(backend.triton())
    yield from _environment(environment, not causes)


def _driver(ascend: Path, dev: Path) -> Finding:
    home = ascend / "driver"
    if found := cann.driver_version(ascend):
        return ok("driver", found)
    if home.is_dir():
        return unknown("driver", f"{home}/version.info does not say its version")
    fix = f"start the container with -v {home}:{home}" if contained() else "install the NPU driver and firmware"
    # One that is installed elsewhere has made its device files.
    return wrong("driver", f"{home} is not there", fix, advice=cann.device_count(dev) > 0)


def _files(dev: Path) -> Iterator[Finding]:
    """The devices: one that can be opened is enough. The driver's other files differ by product: starting judges."""
    count = cann.device_count(dev)
    files = sorted(p for p in dev.iterdir() if re.fullmatch(r"davinci\d+", p.name)) if count else [dev / "davinci0"]
    some = any(os.access(f, os.R_OK | os.W_OK) for f in files)
    yield openable("device files", files, advice=some)
    yield openable("driver files", [dev / name for name in _DRIVER_FILES], advice=True)


def _hccl(backend: NpuBackend) -> Finding:
    """torch_npu links HCCL: without it not even one device runs."""
    try:
        backend.load("libhccl.so")
    except OSError as error:
        return wrong("HCCL", str(error), "run `source set_env.sh` of CANN; HCCL is part of its toolkit")
    return ok("HCCL", "libhccl.so can be loaded")


def _environment(environment: Environment, loads: bool) -> Iterator[Finding]:
    source = "run `source set_env.sh` of the CANN that is installed"
    yield variable(environment, "ASCEND_HOME_PATH", f"CANN is looked for in {cann.ASCEND}", folder, source)
    yield variable(
        environment, "ASCEND_OPP_PATH", "set_env.sh sets it; without it operators are not found", folder, source
    )
    yield _library_path(environment, loads, source)
    yield variable(environment, "ASCEND_RT_VISIBLE_DEVICES", "every device is seen", numbers)
    yield variable(environment, "TASK_QUEUE_ENABLE", "1, torch_npu's own queue of calls", among("0", "1", "2"))
    blocking = "0; with 1 an error names its operator, and everything is slow"
    yield variable(environment, "ASCEND_LAUNCH_BLOCKING", blocking, among("0", "1"))
    fallback = "torch_npu computes an operator that it lacks on the CPU; with 1 it refuses"
    yield variable(environment, "TORCH_NPU_FALLBACK_CPU_DISABLE", fallback, among("0", "1"))
    autoload = (
        "deepport sets it to 0 for itself; in other programs `import torch` imports torch_npu and fails without CANN"
    )
    yield ok("TORCH_DEVICE_BACKEND_AUTOLOAD", autoload)


def _library_path(environment: Environment, loads: bool, fix: str) -> Finding:
    name = "LD_LIBRARY_PATH"
    folders = [Path(f) for f in environment.get(name, "").split(os.pathsep) if f]
    if holds := next((f for f in folders if (f / "libascendcl.so").exists()), None):
        return ok(name, f"libascendcl.so is in {holds}")
    text = f"none of its {len(folders)} folders has libascendcl.so"
    return ok(name, f"{text}; the loader finds it without") if loads else wrong(name, text, fix, advice=True)
