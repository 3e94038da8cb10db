"""The CPU backend: kernels in C++ for the instructions that the processor has, and torch's own GEMMs."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from deepport.backend import Device, Probe, Runtime

if TYPE_CHECKING:
    from deepport.bench.peak import Peak
    from deepport.finding import Finding
    from deepport.kernel import Kernel


class CpuBackend:
    name = "cpu"
    device_type = "cpu"
    simulates = ""

    def probe(self) -> Probe:
        try:
            level = _level()
        except (ImportError, RuntimeError) as error:
            return Probe(reason=f"its kernels cannot be used: {error}")
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        formats = ("float32", "bfloat16", "fp8_e4m3", "fp8_e4m3fnuz", "mxfp4", "int8")
        return Probe(
            (Device(_model(), platform.machine(), memory, formats),), {"torch": version("torch"), "kernels": level}
        )

    def diagnose(self) -> Iterator[Finding]:
        from deepport_cpu.diagnose import diagnose

        return diagnose()

    def start(self) -> Runtime:
        from deepport_cpu.runtime import CpuRuntime

        return CpuRuntime()

    def kernels(self) -> Sequence[Kernel]:
        from deepport_cpu.kernels import KERNELS

        return KERNELS

    def peaks(self, beyond: int) -> Iterable[Peak]:
        from deepport_cpu.peaks import peaks

        return peaks(beyond)


def _level() -> str:
    """The instructions that the kernels are compiled for: the fastest here, or what DEEPPORT_CPU_LEVEL names."""
    from deepport_cpu import _levels

    return _levels.chosen()


def _model() -> str:
    """The processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "CPU"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} x {len(names)}" if names else "CPU"


backend = CpuBackend()
