"""Launches on this processor, by libraries of the IR that Ascend's compiler is given (`x86`): one program after another."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from deepport_triton.ahead.job import Job, job_of
from deepport_triton.ahead.target import Target
from deepport_triton.ahead.trace import Made
from deepport_triton.launch import Launch

Ask = Callable[[dict[str, Any]], dict[str, Any]]
"""Asks a process with triton-ascend (`worker`)."""

_NUMBERS = {"fp32": ctypes.c_float, "i64": ctypes.c_int64}
"""Of a launch's arguments; the others are `i32`."""


class NotHere(Exception):
    """Why a function cannot run on this processor."""


class Host:
    """Takes launches as a target has them."""

    def __init__(self, target: Target, ask: Ask) -> None:
        self._target, self._ask = target, ask
        self._libraries: dict[str, ctypes.CDLL] = {}
        self._unused = torch.zeros(64, dtype=torch.int8)
        """The lock and the workspace that every function is given: nothing uses them before the vendor's passes."""

    def prepare(self, launches: Iterable[Launch]) -> None:
        """Make their libraries. Raises NotHere."""
        for launch in launches:
            self._library(self._job(launch))

    def launch(self, launch: Launch) -> None:
        """Raises NotHere."""
        job = self._job(launch)
        run = getattr(self._library(job), job.function)
        run.restype = None
        grid = (*launch.grid, 1, 1)[:3]
        given = [*_memory(self._unused), *_memory(self._unused), *_given(launch, job), *map(ctypes.c_int32, grid)]
        for z, y, x in product(*map(range, reversed(grid))):
            run(*given, *map(ctypes.c_int32, (x, y, z)))

    def _job(self, launch: Launch) -> Job:
        return job_of(Made("", self._target.name, launch), self._target)

    def _library(self, job: Job) -> ctypes.CDLL:
        if job.name not in self._libraries:
            answer = self._ask({"job": job.as_json(), "target": asdict(replace(self._target, compiler="x86"))})
            if "library" not in answer:
                raise NotHere(f"{job.function}: {answer['reason']}")
            self._libraries[job.name] = ctypes.CDLL(answer["library"])
        return self._libraries[job.name]


def _given(launch: Launch, job: Job) -> Iterator[Any]:
    """A launch's arguments as the function takes them; constants are no arguments, nor are numbers that are 1."""
    for name, value in zip(launch.kernel.arg_names, launch.arguments, strict=False):
        if isinstance(value, Tensor):
            yield from _memory(value)
        elif (type := job.signature[name]) != "constexpr":
            yield _NUMBERS.get(type, ctypes.c_int32)(value)


def _memory(t: Tensor) -> Iterator[Any]:
    """MLIR's one-dimensional memory: where it was allocated, where it begins, its offset, size and stride."""
    yield from (ctypes.c_void_p(t.data_ptr()),) * 2
    yield from map(ctypes.c_int64, (0, t.numel(), 1))
