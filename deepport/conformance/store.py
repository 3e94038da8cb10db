"""The machine's own conformance records: `deepport conform` leaves them, `deepport run` and `deepport repro` look at them.

They lie in the user's data folder (XDG_DATA_HOME on Linux), by backend: the last complete report of every profile, and
`proven.json`, a small index of which kernels, by the hash of their files, passed all their cases with which torch.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from platformdirs import user_data_path

from deepport.conformance.result import PROFILES, Report
from deepport.report.files import read, write


def folder(backend: str) -> Path:
    return user_data_path("deepport") / "conformance" / backend


def save(report: Report) -> Path:
    """Keep a report: as the last of its profile, and its kernels in the index."""
    home = folder(report.backend)
    home.mkdir(parents=True, exist_ok=True)
    path = home / f"{report.profile}.json"
    write(path, report.model_dump_json(indent=1))
    write(home / "proven.json", json.dumps(_index(report.backend) | _proven(report), indent=1))
    return path


def reports(backend: str) -> Iterable[tuple[Path, Report]]:
    """The kept reports of a backend, the last of each profile."""
    return ((path, read(path)) for path in _kept(backend))


def last(backend: str) -> tuple[Path, Report] | None:
    """The report of a backend that was kept last, whatever its profile."""
    path = max(_kept(backend), key=lambda path: path.stat().st_mtime, default=None)
    return (path, read(path)) if path else None


def _kept(backend: str) -> list[Path]:
    return [path for profile in PROFILES if (path := folder(backend) / f"{profile}.json").is_file()]


def unproven(backend: str, kernels: Mapping[str, str], torch: str) -> list[str]:
    """Of kernels with their hashes (`operator:backend/kernel`), those that no record here says conform, as they are now."""
    index = _index(backend)
    return [name for name, digest in kernels.items() if index.get(name) != f"{digest} torch {torch}"]


def _index(backend: str) -> dict[str, str]:
    path = folder(backend) / "proven.json"
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):  # none yet, or not ours: then nothing is proven
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def _proven(report: Report) -> dict[str, str]:
    """What this report says of each kernel: its identity where all its cases passed, else "" for one that is known to fail."""
    cases: dict[str, Counter[bool]] = {}
    for r in report.results:
        if r.by_kernel:
            cases.setdefault(f"{r.operator}:{r.implementation}", Counter())[r.status == "pass"] += 1
    torch = report.environment.get("torch", "")
    found = {}
    for kernel in report.kernels:
        name = f"{kernel.operator}:{report.backend}/{kernel.name}"
        if name in cases:
            found[name] = "" if cases[name][False] else f"{kernel.hash} torch {torch}"
    return found
