"""How a kernel is started: on a device with a chip's configuration, watched in the interpreter, or only noted, to be compiled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deepport_triton import interpreting
from deepport_triton.architecture import Shape, architecture_of, shape


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

    `warps` and `stages` are those of architectures that have none of their own (`architecture.CONFIGURATIONS`). In the
    interpreter the tensors among the arguments are all that the kernel may touch (`guard`).
    """
    if (notes := _notes.get(None)) is not None:
        found = shape(kernel.__name__, _architecture.get(), Shape(warps, stages))
        notes.append(Launch(kernel, grid, arguments, {**constants, **found.constants}, found.warps, found.stages))
    elif 0 in grid:
        return
    elif interpreting():
        _interpret(kernel, grid, arguments, constants)
    else:
        _start(kernel, grid, arguments, constants, Shape(warps, stages))


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
    kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], constants: dict[str, Any], otherwise: Shape
) -> None:
    device = next(a.device for a in arguments if isinstance(a, Tensor))
    architecture = architecture_of(device.index or 0) if device.type == "cuda" else ""
    found = shape(kernel.__name__, architecture, otherwise)
    with torch.accelerator.device_index(device.index):  # Triton launches on the current one, wherever the tensors are
        kernel[grid](*arguments, **{**constants, **found.constants}, num_warps=found.warps, num_stages=found.stages)


def _interpret(kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], constants: dict[str, Any]) -> None:
    from deepport_triton.guard import guarded

    names = zip(kernel.arg_names, arguments, strict=False)
    with guarded((name, value) for name, value in names if isinstance(value, Tensor)):
        kernel[grid](*arguments, **constants)
