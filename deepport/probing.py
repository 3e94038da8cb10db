"""What the probes of several backends read: which torch is installed, version files, and how a reason is worded.

Nothing here imports torch or a vendor's package. Files may be missing, truncated or strange: what cannot be read is "".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

_LARGEST = 1 << 16
"""Bytes read of a file: version files are small, and a probe must not hang on one that is not."""


@dataclass(frozen=True)
class TorchBuild:
    """The installed torch. `cuda` and `hip` are the toolkit versions it is built for, "" where it is not."""

    version: str
    cuda: str
    hip: str
    folder: Path

    @property
    def release(self) -> str:
        """The version to ask for in another build: `2.13` of `2.13.0+cpu`."""
        return ".".join(self.version.partition("+")[0].split(".")[:2])


def torch_build() -> TorchBuild | None:
    """The torch that `import torch` would load, from the text of its version file; None where there is none."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    return torch_build_in(Path(spec.origin).parent)


def torch_build_in(folder: Path) -> TorchBuild:
    text = read(folder / "version.py")
    version, cuda, hip = (_assigned(text, name) for name in ("__version__", "cuda", "hip"))
    return TorchBuild(version, cuda, hip, folder)


def _assigned(text: str, name: str) -> str:
    """The string that a line `name: annotation = 'string'` gives, where it looks like a version."""
    found = re.search(rf"^{name}\b[^=\n]*=\s*['\"]([\w.+-]{{1,64}})['\"]", text, re.MULTILINE)
    return found[1] if found else ""


def package_version(name: str) -> str:
    """The version of an installed distribution, or ""."""
    try:
        return distribution(name).version
    except PackageNotFoundError:
        return ""


def read(path: Path) -> str:
    """The beginning of a text file, or "" where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST).decode(errors="replace")
    except OSError:
        return ""


def field(text: str, name: str) -> str:
    """The version on the first line `name=version` or `name: version`, whatever its case; "" where there is none."""
    found = re.search(rf"^{name}\s*[=:]\s*([\w.+-]{{1,64}})\s*$", text, re.MULTILINE | re.IGNORECASE)
    return found[1] if found else ""


def printable(text: str, longest: int = 200) -> str:
    """Text from a driver or an exception as one line that cannot disturb a terminal."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in line)[:longest]


@dataclass(frozen=True)
class Cause:
    """Why a backend cannot serve, and what to do about it."""

    what: str
    remedy: str


def reason(causes: Sequence[Cause]) -> str:
    """One line: the first cause with its remedy, then what else is in the way."""
    first, *rest = causes
    also = f" (also: {'; '.join(c.what for c in rest)})" if rest else ""
    return f"{first.what}; {first.remedy}{also}"
