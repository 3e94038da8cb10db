"""The machine that figures are of, as the system tells it."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch

from deepport.backend import Started
from deepport.bench.result import Cache, Machine
from deepport.conformance.environment import environment
from deepport.probing import read
from deepport.runtime import HostRuntime

_CPU = Path("/sys/devices/system/cpu")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

ACCELERATOR = 256 << 20
"""Bytes of the largest cache that an accelerator has, AMD's Infinity Cache (CDNA 3 white paper): drivers do not tell of all."""

UNKNOWN = 64 << 20
"""Bytes of cache that are allowed for where the system tells of none."""


def machine(started: Started, device: str) -> Machine:
    """Of a started backend's device, called `device`."""
    return Machine(
        device=device,
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        threads=torch.get_num_threads(),
        caches=caches(),
        memory=HostRuntime().memory().total,
        versions=environment(started.name),
    )


def caches(root: Path = _CPU) -> tuple[Cache, ...]:
    """The data caches that this process's cores reach, each counted once however many share it."""
    shared: dict[tuple[str, str], int] = {}
    for core in sorted(os.sched_getaffinity(0)):
        for index in sorted((root / f"cpu{core}" / "cache").glob("index*")):
            fields = [read(index / name).strip() for name in ("type", "level", "shared_cpu_list", "size")]
            if fields[0] != "Instruction" and all(fields):
                shared[fields[1], fields[2]] = _bytes(fields[3])
    levels = sorted({level for level, _ in shared})
    sums = {level: sum(size for (of, _), size in shared.items() if of == level) for level in levels}
    return tuple(Cache(level=f"L{level}", bytes=size) for level, size in sums.items() if size)


def beyond(caches: tuple[Cache, ...], device: str = "cpu") -> int:
    """Bytes that no cache keeps while they are read over and over: twice the largest, of the host and of an accelerator."""
    return 2 * max((*(c.bytes for c in caches), ACCELERATOR if device != "cpu" else 0), default=0) or 2 * UNKNOWN


def commit(folder: Path = Path(__file__).parent) -> str:
    """Of the repository that this code is in; "" where it is in none, or there is no git."""
    try:
        said = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return said.stdout.strip() if said.returncode == 0 else ""


def _bytes(text: str) -> int:
    """`48K` in bytes; 0 for what is no size."""
    number, unit = text.rstrip("KMG"), text[-1:]
    return int(number) * _UNITS.get(unit, 1) if number.isdecimal() else 0


def _processor() -> str:
    lines = read(Path("/proc/cpuinfo")).splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
