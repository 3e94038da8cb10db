"""How a kernel is started: on a device with a chip's configuration, watched in the interpreter, or only noted, to be compiled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from deepport_triton import interpreting


@dataclass(frozen=True)
class Launch:
    """One launch: what a compiler has to know of it."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    warps: int
    stages: int


def launch(
    kernel: Any, grid: tuple[int, ...], *arguments: Any, warps: int = 4, stages: int = 2, **constants: Any
) -> None:
    """Run `kernel` once for every program of the grid; nothing where there is none.

    In the interpreter the tensors among the arguments are all that the kernel may touch (`guard`).
    """
    if (notes := _notes.get(None)) is not None:
        notes.append(Launch(kernel, grid, arguments, constants, warps, stages))
    elif 0 not in grid:
        (_interpret if interpreting() else _start)(kernel, grid, arguments, constants, warps, stages)


@contextmanager
def noted(architecture: str = "") -> Iterator[list[Launch]]:
    """Launches inside are noted, as this architecture has them, and not made: tensors may be on the meta device."""
    notes: list[Launch] = []
    tokens = _notes.set(notes), _architecture.set(architecture)
    try:
        yield notes
    finally:
        _notes.reset(tokens[0])
        _architecture.reset(tokens[1])


_notes: ContextVar[list[Launch]] = ContextVar("deepport_triton_notes")
_architecture: ContextVar[str] = ContextVar("deepport_triton_architecture", default="")


def _start(
    kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], constants: dict[str, Any], warps: int, stages: int
) -> None:
    kernel[grid](*arguments, **constants, num_warps=warps, num_stages=stages)


def _interpret(
    kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], constants: dict[str, Any], warps: int, stages: int
) -> None:
    from deepport_triton.guard import guarded

    names = zip(kernel.arg_names, arguments, strict=False)
    with guarded((name, value) for name, value in names if isinstance(value, Tensor)):
        kernel[grid](*arguments, **constants)
