"""Where the real torch_npu is: a wheel from the package registry, unpacked beside the test environment and never inside it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from platformdirs import user_cache_path

VERSION = "2.13.0"
FOLDER = "DEEPPORT_TORCH_NPU"
"""The variable that names a folder with torch_npu in it, instead of the cache."""


class Missing(Exception):
    """The wheel or the compiler cannot be had; the text says why."""


def wheel() -> Path:
    """A folder with torch_npu in it, fetched once through pip. Raises Missing."""
    if named := os.environ.get(FOLDER):
        if not (Path(named) / "torch_npu").is_dir():
            raise Missing(f"{FOLDER}={named} has no torch_npu in it")
        return Path(named)
    folder = cache() / f"torch_npu-{VERSION}"
    if not (folder / "torch_npu").is_dir():
        _fetch(folder)
    return folder


def cache() -> Path:
    return user_cache_path("deepport") / "cann"


def _fetch(folder: Path) -> None:
    """Unpack beside the folder and rename: whoever sees the folder sees it whole."""
    fresh = folder.with_name(f"{folder.name}.{os.getpid()}")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    done = subprocess.run([*command, "--target", fresh, f"torch-npu=={VERSION}"], capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise Missing(f"torch_npu {VERSION} cannot be fetched: {''.join(last)}")
    try:
        fresh.rename(folder)
    except OSError:  # another process was first
        if not folder.is_dir():
            raise
