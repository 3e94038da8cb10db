"""`deepport compile`: the Triton kernels compiled for chips that need not be here, and what their code needs of each."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Annotated

import typer

from deepport.command import options
from deepport.command.terminal import EXIT_CODES, failures
from deepport.errors import BackendUnavailable, BadInput

EXAMPLES = f"""
Examples:

  deepport compile --target sm_90 --target gfx942

  deepport compile --target ascend-a2 --operator engram_hash

  deepport compile --check

  deepport compile --execute --target ascend-a2

Targets: sm_80, sm_90, sm_100, sm_120 (NVIDIA); gfx90a, gfx942, gfx950, gfx1100 (AMD); ascend-a2, ascend-a3, ascend-a5, whose
compiler lives in an environment of its own, which `ci/compile environment` makes.

Exit code 1: a compiler refuses a kernel, or its code spills, needs more shared memory than the chip has, or multiplies without
its matrix instruction; with --execute, a result is wrong; with --check, something is worse than in the committed baseline.
{EXIT_CODES}
"""

_WHAT, _BASELINE = "What is compiled", "The baseline"

Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="NAME",
        rich_help_panel=_WHAT,
        help="A chip's architecture; may be given several times. Default: every GPU.",
    ),
]
Operators = Annotated[
    list[str] | None,
    typer.Option(
        "--operator",
        metavar="NAME",
        rich_help_panel=_WHAT,
        help="The kernels of this operator; may be given several times. Default: all that have one.",
    ),
]
Brief = Annotated[
    bool,
    typer.Option(
        "--brief",
        rich_help_panel=_WHAT,
        help="Every kernel, for V4-Flash with a memory in bfloat16. Default: V4-Flash, V4-Pro and the memory, also in float16.",
    ),
]
Execute = Annotated[
    bool,
    typer.Option(
        "--execute",
        rich_help_panel=_WHAT,
        help="Run the operators' own cases on this processor by the IR that Ascend's compiler is given, before the gates of "
        "deepport conform: evidence E4. Needs mlir-19-tools and llvm-19 of Debian. Default: every Ascend.",
    ),
]
Check = Annotated[
    bool,
    typer.Option(
        "--check",
        rich_help_panel=_BASELINE,
        help="Fail for what is worse than in the baseline: refused, spilling, without its matrix instruction, or with 10% more "
        "registers or shared memory, or 25% more code.",
    ),
]
Update = Annotated[
    bool, typer.Option("--update", rich_help_panel=_BASELINE, help="Write what is found into the baseline.")
]
Jobs = Annotated[int, typer.Option(metavar="N", min=0, help="Processes that compile; of 0 as many as there are cores.")]


def compile(
    target: Targets = None,
    operator: Operators = None,
    brief: Brief = False,
    execute: Execute = False,
    check: Check = False,
    update: Update = False,
    jobs: Jobs = 0,
    as_json: options.Json = False,
    traceback: options.Traceback = False,
) -> None:
    """Compile the Triton kernels for chips that need not be here, and show what their code needs of them.

    Models' steps are traced on tensors without data, and each kernel that they launch is compiled as it is launched: with these
    types, constants, and warps and stages of that architecture. Registers, spills, shared memory against what a program may have,
    bytes of code and the matrix instructions found are read from the code itself. That is evidence E3, "compiled for": nothing
    runs on a chip. Triton's cache keeps what was compiled before. Ctrl-C ends it and shows what is done.
    """
    with failures(traceback):
        if find_spec("triton") is None:
            raise BackendUnavailable("triton is not installed; pip install 'deepport[triton]'")
        if os.environ.get("TRITON_INTERPRET") == "1":
            raise BadInput("TRITON_INTERPRET=1 has kernels interpreted: unset it to compile them")
        if check and update:
            raise BadInput("--check compares with the baseline and --update writes it: give one of them")
        if execute and brief:
            raise BadInput("--brief chooses among what is compiled, and --execute runs all cases: give one of them")
        from deepport.command import compiling, executing

        asked = compiling.Asked(tuple(target or ()), tuple(operator or ()), brief, check, update, jobs, as_json)
        raise typer.Exit(executing.run(asked) if execute else compiling.compile(asked))
