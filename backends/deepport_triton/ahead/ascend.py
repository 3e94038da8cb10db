"""Ascend's compiler, asked without CANN: Triton's IR, then bishengir's passes up to HIVM, the last module of the open ones.

It plans tiles, vector and cube units, on-chip memory and synchronisation, and refuses what does not fit. What makes a binary of
HIVM is closed, so that nothing here is compiled to an end. Runs in an environment of its own (`npu`), with triton-ascend.
"""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_KEEPER = """#!/bin/sh
# Called in place of CANN's hivmc, with the module that it would compile: keeps it.
case "$*" in *--version*) echo "${0##*/} 1.2.0 (8796a8ac1508 2026-07-29)"; exit 0;; esac
for a in "$@"; do case "$a" in *.mlir) cp "$a" "$DEEPPORT_KEEP";; esac; done
"""
SECONDS = 240

_TIMES = 3
"""That triton-ascend is asked, while it ends by SIGSEGV: triton-adapter-opt of 3.2.0 does so now and then, one call in some
thousands, where the same call passes before and after."""


class Refused(Exception):
    """The compiler's own words."""


def compiled(function: Any, job: dict[str, Any], target: dict[str, Any]) -> dict[str, Any]:
    """Lower a job. There is no code of which anything could be said: accepted, or Refused, or what Triton itself raises."""
    module = _hivm(linalg(function, job, target["architecture"]), target["architecture"])
    if "llvm.inline_asm" in module:
        raise Refused("inline assembly reaches the device's module, where nobody checks it")
    return {}


def _late(architecture: str) -> bool:
    """Whether it is of the generation A5, which has tools of its own."""
    return architecture.startswith("Ascend950")


def linalg(function: Any, job: dict[str, Any], architecture: str) -> str:
    """The kernel as triton-ascend gives it to bishengir. Raises Refused."""
    for _ in range(_TIMES):
        try:
            return _lowered(function, job, architecture)
        except subprocess.CalledProcessError as error:
            if error.returncode != -signal.SIGSEGV:
                raise Refused(error.stderr.decode(errors="replace")) from None
    raise Refused(f"the compiler crashes: SIGSEGV, {_TIMES} times of {_TIMES}")


def _lowered(function: Any, job: dict[str, Any], architecture: str) -> str:
    """Raises CalledProcessError where a tool of triton-ascend fails."""
    from triton._C.libtriton import ir
    from triton.backends.compiler import GPUTarget
    from triton.compiler.compiler import ASTSource, make_backend

    target = GPUTarget("npu", architecture, 0)
    compiler, context = make_backend(target), ir.context()
    options = compiler.parse_options(
        {"compile_on_910_95": _late(architecture), "enable_select_analysis": _late(architecture)}
    )
    ir.load_dialects(context)
    compiler.load_dialects(context)
    signature = {n: t for n, t in job["signature"].items() if t != "constexpr"}
    source = ASTSource(fn=function, signature=signature, constants=job["constants"])
    module = source.make_ir(options, compiler.get_codegen_implementation(), compiler.get_module_map(), context)
    stages: dict[str, Any] = {}
    told = {"target": target, "hash": "0", **options.__dict__}
    compiler.add_stages(stages, options)
    return str(stages["ttadapter"](stages["ttir"](module, told), told))


def _hivm(linalg: str, architecture: str) -> str:
    """What bishengir hands to the closed compiler."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        kernel, kept = place / "kernel.mlir", place / "hivm.mlir"
        kernel.write_text(re.sub(r', mix_mode\s*=\s*"[^"]*"', "", linalg))
        for name in ("hivmc", "hivmc-a5"):
            (place / name).write_text(_KEEPER)
            (place / name).chmod(0o755)
        path = f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"
        done = subprocess.run(
            [*_command(architecture), str(kernel), "-o", str(place / "kernel")],
            env={**os.environ, "PATH": path, "DEEPPORT_KEEP": str(kept)},
            capture_output=True, text=True, check=False, timeout=SECONDS,
        )  # fmt: skip
        if done.returncode or not kept.exists():
            raise Refused(done.stderr)
        return kept.read_text()


def _command(architecture: str) -> list[str]:
    late = _late(architecture)
    automatic = str(not late)
    return [
        str(tools() / ("bishengir-compile-a5" if late else "bishengir-compile")), f"--target={architecture}",
        "--enable-hfusion-compile=true", "--enable-hivm-compile=true", "--enable-triton-kernel-compile=true",
        f"--enable-auto-multi-buffer={automatic}", f"--enable-auto-bind-sub-block={automatic}",
    ]  # fmt: skip


@cache
def tools() -> Path:
    spec = find_spec("ascendnpuir")
    if spec is None or not spec.submodule_search_locations:
        raise Refused("ascendnpu-ir is not installed beside triton-ascend")
    folder = Path(spec.submodule_search_locations[0]) / "bin"
    for tool in folder.iterdir():
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)  # the wheel has lost it
    return folder
