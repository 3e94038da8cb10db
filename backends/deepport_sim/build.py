"""`python -m deepport_sim.build`: the native part, compiled once against the installed torch, into the user's cache.

It uses torch's unstable C++ interface, hence one release of torch, and no wheel that would carry it to another.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from platformdirs import user_cache_path

from deepport.probing import TorchBuild, torch_build

RELEASE = "2.13"
NATIVE = Path(__file__).with_name("native")
_FLAGS = ["-std=c++17", "-O1", "-shared", "-fPIC", "-fvisibility=hidden", "-pthread", "-Wall", "-Wextra", "-Werror"]
_LIBRARIES = ("torch_python", "torch_cpu", "c10")


class Missing(Exception):
    """The native part cannot be had; the text says why."""


def missing(build: TorchBuild | None) -> Iterator[tuple[str, str]]:
    """What is in the way, with what to do about it."""
    if build is None or build.release != RELEASE:
        found = f"torch {build.version} is installed" if build else "torch is not installed"
        yield f"the simulated accelerator is made for torch {RELEASE}, and {found}", f"pip install 'torch=={RELEASE}.*'"
    if not shutil.which("g++"):
        yield "g++ is not installed, which builds the simulated accelerator when it is first used", "apt install g++"


def built() -> Path:
    """The module's file, built once for these sources and that torch. Raises Missing."""
    build = torch_build()
    for what, remedy in missing(build):
        raise Missing(f"{what}; {remedy}")
    assert build is not None  # or it would be missing
    out = user_cache_path("deepport") / "sim" / _fingerprint(build) / "_sim.so"
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        with (out.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # of several that want it one builds, and the others wait
            if not out.exists():
                fresh = out.with_name("fresh.so")
                _compile(build, fresh)
                fresh.rename(out)  # who sees it sees it whole
    return out


def _compile(build: TorchBuild, out: Path) -> None:
    includes = [
        build.folder / "include",
        build.folder / "include/torch/csrc/api/include",
        Path(sysconfig.get_paths()["include"]),
    ]
    command = ["g++", *_FLAGS, "-DTORCH_EXTENSION_NAME=_sim", *(f"-isystem{i}" for i in includes)]
    command += [str(NATIVE / "unity.cpp"), "-o", str(out), f"-L{build.folder / 'lib'}", *(f"-l{n}" for n in _LIBRARIES)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Missing(f"its native part cannot be built, which is a bug of deepport_sim:\n{done.stderr}")


def _fingerprint(build: TorchBuild) -> str:
    """What it is made of: our sources and flags, this torch and this Python."""
    digest = hashlib.sha256(f"{_FLAGS} {build.version} {build.folder} {sysconfig.get_config_var('SOABI')}".encode())
    for source in sorted(NATIVE.iterdir()):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    print(built())
