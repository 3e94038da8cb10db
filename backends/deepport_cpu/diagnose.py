"""What `deepport doctor --device cpu` looks at beside the probe: nothing here imports torch.

Nothing of this keeps a run from working: it is what makes one slow. Free memory is told by the runtime, once it has started.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from deepport.finding import Environment, Finding, ok, unknown, variable, wrong
from deepport.probing import package_version, read

_FAST = (
    "avx2",
    "avx512f",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "bf16",
    "sve",
    "sve2",
    "i8mm",
)
"""Of the instructions that oneDNN and torch choose between."""


def diagnose(environment: Environment = os.environ, root: Path = Path("/")) -> Iterator[Finding]:
    torch = package_version("torch")
    yield ok("torch", torch) if torch else wrong("torch", "is not installed", "pip install torch")
    yield _features(read(root / "proc" / "cpuinfo"))
    cores = len(os.sched_getaffinity(0))
    yield _cores(cores, read(root / "sys" / "fs" / "cgroup" / "cpu.max"))
    yield _pages(read(root / "sys" / "kernel" / "mm" / "transparent_hugepage" / "enabled"))
    yield variable(environment, "OMP_NUM_THREADS", f"torch takes {cores} threads", lambda value: _threads(value, cores))
    yield variable(environment, "ATEN_CPU_CAPABILITY", "torch takes the newest instructions that there are")


def _features(cpuinfo: str) -> Finding:
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    if line is None:
        return unknown("instructions", "/proc/cpuinfo lists none")
    there = set(line[1].split())
    found = " ".join(f for f in _FAST if f in there)
    if there & {"avx2", "asimd"}:
        return ok("instructions", found)
    return wrong("instructions", f"no AVX2: {found or 'scalar code'}", "use a processor of this decade", advice=True)


def _cores(cores: int, limit: str) -> Finding:
    """Those this process may use. A container's limit (cgroup v2) is time, not cores: more threads than it pays for wait."""
    quota = re.match(r"(\d{1,15}) (\d{1,15})\s*$", limit)
    paid = int(quota[1]) / int(quota[2]) if quota and int(quota[2]) else 0.0
    if paid and paid < cores:
        fix = f"export OMP_NUM_THREADS={max(int(paid), 1)}"
        return wrong("cores", f"{cores}, of which the container's limit pays for {paid:.3g}", fix, advice=True)
    return ok("cores", str(cores))


def _pages(enabled: str) -> Finding:
    """Weights and memory tables are large and read at random: with 4 KiB pages each access may miss the TLB."""
    chosen = re.search(r"\[(\w+)\]", enabled)
    if chosen is None:
        return unknown("huge pages", "the kernel does not say whether it has them")
    if chosen[1] == "never":
        fix = "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"
        return wrong("huge pages", "never: large weights are read by small pages", fix, advice=True)
    return ok("huge pages", chosen[1])


def _threads(value: str, cores: int) -> str:
    if not value.isascii() or not value.isdecimal() or not int(value):
        return "is no number of threads"
    return f"is more than the {cores} cores that this process may use" if int(value) > cores else ""
