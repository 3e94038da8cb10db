"""How a kernel is started: with a chip's configuration, or watched in the interpreter."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from deepport_triton import interpreting


def launch(
    kernel: Any, grid: tuple[int, ...], *arguments: Any, warps: int = 4, stages: int = 2, **constants: Any
) -> None:
    """Run `kernel` once for every program of the grid; nothing where there is none.

    In the interpreter the tensors among the arguments are all that the kernel may touch (`guard`).
    """
    if 0 in grid:
        return
    if not interpreting():
        kernel[grid](*arguments, **constants, num_warps=warps, num_stages=stages)
        return
    from deepport_triton.guard import guarded

    names = zip(kernel.arg_names, arguments, strict=False)
    with guarded((name, value) for name, value in names if isinstance(value, Tensor)):
        kernel[grid](*arguments, **constants)
