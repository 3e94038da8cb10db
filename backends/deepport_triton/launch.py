"""How a kernel is started: on a device with a chip's configuration, watched in the interpreter, or handed to who compiles it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    if (taker := _taker.get(None)) is not None:
        take, architecture = taker
        found = shape(kernel.__name__, architecture, Shape(warps, stages))
        take(Launch(kernel, grid, arguments, {**constants, **found.constants}, found.warps, found.stages))
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
    with taken(notes.append, architecture):
        yield notes


@contextmanager
def taken(take: Callable[[Launch], None], architecture: str = "") -> Iterator[None]:
    """Launches inside are handed to `take`, as this architecture has them."""
    token = _taker.set((take, architecture))
    try:
        yield
    finally:
        _taker.reset(token)


_taker: ContextVar[tuple[Callable[[Launch], None], str]] = ContextVar("deepport_triton_taker")


def _start(
    kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], constants: dict[str, Any], otherwise: Shape
) -> None:
    devices = {a.device for a in arguments if isinstance(a, Tensor)}
    # A host's memory may be pinned for a GPU.
    device = next((d for d in devices if d.type != "cpu"), torch.device("cpu"))
    options = {}
    if device.type == "cuda":
        found = shape(kernel.__name__, architecture_of(device.index or 0), otherwise)
        options = {**found.constants, "num_warps": found.warps, "num_stages": found.stages}
    elif len(devices) > 1:
        where = " and ".join(sorted(map(str, devices)))
        raise ValueError(f"{kernel.__name__}: tensors lie on {where}; a kernel addresses its own device's memory only")
    with torch.accelerator.device_index(device.index):  # Triton launches on the current one, wherever the tensors are
        kernel[grid](*arguments, **{**constants, **options})  # an NPU has no warps: its compiler plans by itself


def _interpret(kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], constants: dict[str, Any]) -> None:
    from deepport_triton.guard import guarded

    names = zip(kernel.arg_names, arguments, strict=False)
    with guarded((name, value) for name, value in names if isinstance(value, Tensor)):
        kernel[grid](*arguments, **constants)
