"""Where the compiler for Ascend lives: triton-ascend is a Triton of its own, which cannot be installed beside the other."""

from __future__ import annotations

import os
from pathlib import Path

import deepport
import deepport_triton
from deepport.errors import BackendUnavailable

PYTHON = "DEEPPORT_ASCEND_PYTHON"
"""The environment variable that names its Python."""

PLACE = Path(".ascend-compile")
"""Where ci/compile makes it, in the repository."""


def process() -> tuple[str, str]:
    """Its Python, and the folders of our packages. Raises BackendUnavailable where it is not here."""
    python = os.environ.get(PYTHON) or str(PLACE / "bin" / "python")
    if not Path(python).exists():
        raise BackendUnavailable(
            f"the compiler for Ascend is not here: {python} does not exist; `ci/compile environment` makes it, "
            f"or {PYTHON} names the Python of an environment with triton-ascend and ascendnpu-ir"
        )
    ours = dict.fromkeys(str(Path(p.__file__ or "").parents[1]) for p in (deepport, deepport_triton))
    return python, os.pathsep.join(ours)
