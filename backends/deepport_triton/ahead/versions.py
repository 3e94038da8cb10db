"""Which compilers are asked, and in what words their verdicts may be told."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from importlib.metadata import version

from deepport_triton.ahead import npu
from deepport_triton.ahead.target import Target

_NPU = ("triton-ascend", "ascendnpu-ir")
_ASK = f"from importlib.metadata import version; print(*map(version, {_NPU}))"


def compilers(targets: Sequence[Target]) -> dict[str, str]:
    """By name the versions of those that these targets need. Raises BackendUnavailable."""
    found = {}
    if any(t.compiler != "npu" for t in targets):
        found["triton"] = version("triton")
    if any(t.compiler == "npu" for t in targets):
        python, _ = npu.process()
        said = subprocess.run([python, "-c", _ASK], capture_output=True, text=True, check=True).stdout
        found |= dict(zip(_NPU, said.split(), strict=True))
    return found


def basis(targets: Sequence[Target], compilers: dict[str, str]) -> str:
    """What is known by now, and what is not."""
    words = []
    if gpus := [t.name for t in targets if t.compiler != "npu"]:
        words.append(f"compiled for {', '.join(gpus)} by triton {compilers['triton']}")
    if npus := [t.name for t in targets if t.compiler == "npu"]:
        by = " and ".join(f"{name} {compilers[name]}" for name in _NPU)
        words.append(f"accepted for {', '.join(npus)} up to HIVM by {by}: no binary was made")
    return f"{'; '.join(words)}; nothing ran on a chip"
