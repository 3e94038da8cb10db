"""Ascend's IR made a library for x86: what a kernel means after triton-ascend, where no NPU is.

`bishengir-opt` writes what it can of the vendor's operations in MLIR's own; LLVM 19 (Debian: mlir-19-tools, llvm-19) and gcc do
the rest. What is left of the vendor's has no meaning here, and is refused. Runs beside `ascend`, in its environment.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from deepport_triton.ahead import ascend

TOOLS = Path("/usr/lib/llvm-19/bin")
"""Where Debian has LLVM's."""

_COPY = Path(__file__).with_name("memref_copy.c")

_TO_UPSTREAM = ("--execution-engine-convert-hfusion-to-upstream", "--execution-engine-convert-hivm-to-upstream")
_TO_LLVM = (
    "--inline", "--convert-elementwise-to-linalg", "--eliminate-empty-tensors", "--empty-tensor-to-alloc-tensor",
    "--one-shot-bufferize=allow-return-allocs-from-loops=true", "--canonicalize", "--convert-linalg-to-loops",
    "--lower-affine", "--convert-scf-to-cf", "--arith-expand=include-bf16=true", "--expand-strided-metadata",
    "--lower-affine", "--convert-math-to-llvm", "--convert-math-to-libm", "--convert-complex-to-llvm",
    "--convert-arith-to-llvm", "--convert-index-to-llvm", "--finalize-memref-to-llvm", "--convert-func-to-llvm",
    "--convert-cf-to-llvm", "--convert-arith-to-llvm", "--reconcile-unrealized-casts",
)  # fmt: skip


def compiled(function: Any, job: dict[str, Any], target: dict[str, Any]) -> dict[str, Any]:
    """The path of a job's library, kept from one run to the next by its IR. Raises Refused where the IR has no meaning here."""
    linalg = ascend.linalg(function, job, target["architecture"])
    sources = (linalg, *(Path(f).read_text() for f in (__file__, _COPY)))
    place = Path(sys.prefix, "x86", hashlib.sha256("\0".join(sources).encode()).hexdigest()[:32] + ".so")
    if not place.exists():
        place.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as folder:
            _built(linalg, Path(folder)).replace(place)
    return {"library": str(place)}


def _built(linalg: str, folder: Path) -> Path:
    (folder / "given.mlir").write_text(re.sub(r', mix_mode\s*=\s*"[^"]*"', "", linalg))
    _run(folder, ascend.tools() / "bishengir-opt", "given.mlir", *_TO_UPSTREAM, "-o", "upstream.mlir")
    (folder / "meant.mlir").write_text(_meant((folder / "upstream.mlir").read_text()))
    _run(folder, TOOLS / "mlir-opt", "meant.mlir", *_TO_LLVM, "-o", "llvm.mlir")
    _run(folder, TOOLS / "mlir-translate", "--mlir-to-llvmir", "llvm.mlir", "-o", "kernel.ll")
    _run(folder, TOOLS / "opt", "-O2", "kernel.ll", "-o", "kernel.bc")
    _run(folder, TOOLS / "llc", "-O2", "-relocation-model=pic", "-filetype=obj", "kernel.bc", "-o", "kernel.o")
    _run(folder, "gcc", "-O2", "-fPIC", "-shared", "kernel.o", str(_COPY), "-o", "kernel.so", "-lm")
    return folder / "kernel.so"


def _run(folder: Path, *command: str | Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=ascend.SECONDS)
    if done.returncode:
        raise ascend.Refused(done.stderr)


def _meant(text: str) -> str:
    """A module without what is for the vendor's scheduler alone, and with a body for the vendor's function of running sums."""
    text = re.sub(r",? ?hivm\.\w+", "", re.sub(r"\{hivm\.\w+( = [^}]*)?\}", "", text))
    text = re.sub(r"^\s*annotation\.mark .*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^\s*gpu\.barrier\n", "", text, flags=re.MULTILINE)  # a program is one thread here
    return re.sub(
        r"func\.func private @(triton_cumsum_\d+)\(tensor<([x\d]+)x(\w+)>, i32, i1\) -> .*", _running_sum, text
    )


def _running_sum(declared: re.Match[str]) -> str:
    """The declared function with a body: along an axis each element joins the sum before it; no kernel wants it reversed."""
    name, sizes, element = declared.groups()
    tensor, every = f"tensor<{sizes}x{element}>", list(enumerate(sizes.split("x")))
    add = "arith.addi" if element.startswith("i") else "arith.addf"
    outer = ("%x", *(f"%a{d}" for d, _ in every))  # what each loop begins with, and the innermost goes on from
    inner, first = outer[-1], "%is_first0"
    lines = [f"func.func private @{name}(%x: {tensor}, %axis: i32, %reverse: i1) -> {tensor} {{"]
    lines += ["%zero = arith.constant 0 : index", "%one = arith.constant 1 : index"]
    for d, size in every:
        lines += [f"%n{d} = arith.constant {size} : index", f"%d{d} = arith.constant {d} : i32"]
        lines += [f"%is{d} = arith.cmpi eq, %axis, %d{d} : i32", f"%by{d} = arith.select %is{d}, %one, %zero : index"]
    for d, _ in every:
        loop = f"scf.for %i{d} = %zero to %n{d} step %one iter_args(%a{d} = {outer[d]}) -> ({tensor})"
        lines.append(f"%r{d} = {loop} {{")
    for d, _ in every:
        lines += [f"%b{d} = arith.subi %i{d}, %by{d} : index", f"%p{d} = arith.maxsi %b{d}, %zero : index"]
        lines.append(f"%is_first{d} = arith.cmpi slt, %b{d}, %zero : index")
    for d, _ in every[1:]:
        lines.append(f"%first{d} = arith.ori {first}, %is_first{d} : i1")
        first = f"%first{d}"
    at, before = (", ".join(f"%{of}{d}" for d, _ in every) for of in "ip")
    lines += [f"%own = tensor.extract {inner}[{at}] : {tensor}", f"%sum = tensor.extract {inner}[{before}] : {tensor}"]
    lines += [f"%both = {add} %own, %sum : {element}", f"%kept = arith.select {first}, %own, %both : {element}"]
    lines.append(f"%new = tensor.insert %kept into {inner}[{at}] : {tensor}")
    results = ("%new", *(f"%r{d}" for d, _ in reversed(every[1:])))
    lines += [f"scf.yield {result} : {tensor}\n}}" for result in results]
    return "\n".join((*lines, f"return %r0 : {tensor}", "}"))
