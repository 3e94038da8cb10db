"""`python -m cann.build --wheel DIR --out DIR`: the simulated libraries of CANN, for the torch_npu of a wheel.

What torch_npu links against and which operators it looks up are read from its own libraries, so that a new release needs
no change here: a symbol that nobody wrote says its name when it is called.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from cann.wheel import Missing, cache, wheel

NATIVE = Path(__file__).with_name("native")
CXX = ["-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-pthread"]
LIBRARIES = {
    "ascendcl": ["process.cpp", "memory.cpp", "stream.cpp", "legacy.cpp", "refused.cpp"],
    "acl_op_compiler": ["compiler.cpp"],
    "opapi": ["handles.cpp", "operators.cpp", "trampoline.S"],
    "hccl": ["hccl.cpp"],
    "nnopbase": [],
    "ge_runner": [],
    "graph": [],
    "acl_tdt_channel": [],
    "atb": [],
    "unlock": ["unlock.cpp"],
}
"""Each library and its sources; those without are there to be found, since torch_npu names them."""

_CANN = ("acl", "Msprof", "rtDev", "rtFun", "rtGet", "rtKer", "_ZN2ge", "_ZN3atb", "_ZNK3atb")


def built(folder: Path) -> Path:
    """The libraries for the wheel in `folder`, built once for these sources and that wheel. Raises Missing."""
    out = cache() / f"libraries-{_fingerprint(folder)}"
    if not out.is_dir():
        fresh = out.with_name(f"{out.name}.{os.getpid()}")
        build(folder, fresh)
        try:
            fresh.rename(out)
        except OSError:  # another process was first
            shutil.rmtree(fresh)
    return out


def build(folder: Path, out: Path) -> None:
    for tool in ("g++", "nm"):
        if not shutil.which(tool):
            raise Missing(f"{tool} is not installed: the CANN simulator is built when it is first used")
    out.mkdir(parents=True, exist_ok=True)
    libraries = _vendor_libraries(folder)
    _write(out / "operators.inc", (f"OPERATOR({i}, {n})" for i, n in enumerate(operators(libraries))))
    written = _defined_in_sources()
    _write(out / "refused.inc", (f"REFUSED({s})" for s in linked(libraries) if s not in written))
    for folder_of_toolkit in ("runtime", "compiler", "opp"):  # torch_npu looks whether they are there
        (out / folder_of_toolkit).mkdir(exist_ok=True)
    for name, sources in LIBRARIES.items():
        _compile(name, sources, out)


def operators(libraries: Iterable[Path]) -> list[str]:
    """The aclnn operators that torch_npu looks up by name."""
    found: set[bytes] = set()
    for library in libraries:
        found |= set(re.findall(rb"(?<=\0)(aclnn\w+)GetWorkspaceSize(?=\0)", library.read_bytes()))
    return sorted(name.decode() for name in found)


def linked(libraries: Iterable[Path]) -> list[str]:
    """The symbols of CANN that torch_npu's libraries need and do not define."""
    wanted: set[str] = set()
    defined: set[str] = set()
    for library in libraries:
        wanted |= _symbols(library, "--undefined-only")
        defined |= _symbols(library, "--defined-only")
    return sorted(s for s in wanted - defined if s.startswith(_CANN))


def _symbols(library: Path, which: str) -> set[str]:
    done = subprocess.run(["nm", "-D", which, library], capture_output=True, text=True, check=True)
    return {line.split()[-1].partition("@")[0] for line in done.stdout.splitlines()}


def _defined_in_sources() -> set[str]:
    text = "".join(source.read_text() for source in NATIVE.glob("*.cpp"))
    return set(re.findall(r"^EXPORT [\w*<> ]+?\b(\w+)\(", text, re.MULTILINE))


def _compile(name: str, sources: list[str], out: Path) -> None:
    inputs = [str(NATIVE / s) for s in sources] or ["-x", "c++", os.devnull]
    library = f"lib{name}.so"
    command = [
        "g++",
        *CXX,
        f"-I{out}",
        *inputs,
        "-o",
        str(out / library),
        f"-Wl,-soname,{library}",
        "-Wl,-z,defs",
        "-ldl",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{library} cannot be built:\n{done.stderr}")


def _vendor_libraries(folder: Path) -> list[Path]:
    package = folder / "torch_npu"
    return sorted([*package.glob("lib/*.so"), *package.glob("_C*.so")])


def _fingerprint(folder: Path) -> str:
    """What the libraries are made of: our sources, and the sizes of the wheel's libraries."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for source in sorted(NATIVE.iterdir()):
        digest.update(source.read_bytes())
    for library in _vendor_libraries(folder):
        digest.update(f"{library.name} {library.stat().st_size}".encode())
    return digest.hexdigest()[:16]


def _write(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, help="a folder with torch_npu in it; fetched when not given")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    try:
        build(options.wheel or wheel(), options.out)
    except Missing as why:
        sys.exit(str(why))


if __name__ == "__main__":
    main()
