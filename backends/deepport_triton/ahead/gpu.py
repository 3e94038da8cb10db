"""Triton's compiler for GPUs, asked without a device."""

from __future__ import annotations

from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler.compiler import make_backend

from deepport_triton.ahead.code import facts


def compiled(function: Any, job: dict[str, Any], target: dict[str, Any]) -> dict[str, Any]:
    """Compile; Triton's own cache serves what it has compiled before. Raises what the compiler raises."""
    chip = GPUTarget(target["compiler"], target["architecture"], target["threads"])
    hints = {(int(place),): make_backend(chip).parse_attr(hint) for place, hint in job["hints"].items()}
    source = ASTSource(fn=function, signature=job["signature"], constexprs=job["constants"], attrs=hints)
    options = {"num_warps": job["warps"], "num_stages": job["stages"]}
    found = triton.compile(source, target=chip, options=options)
    return facts(found.asm, found.metadata.shared, tuple(target["instructions"]))
