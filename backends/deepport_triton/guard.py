"""What a kernel touches, watched in Triton's interpreter: every address of every program of one launch.

The interpreter reads and writes wherever a pointer points, and runs programs one after another, so that neither a stray address
nor a race between programs shows. A guard knows the launch's tensors and refuses

- a load or store outside of them;
- a store to an address twice in one store, where the chip would keep either;
- two programs that store to one address, or one that loads what another has stored, in any order: programs have none.

Atomic operations are allowed to meet each other.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from triton.runtime.interpreter import InterpreterBuilder

Numbers = NDArray[Any]

NOBODY, SEVERAL = 0, -1
"""Of the programs, which are numbered from 1."""

_NORESERVE = 0x4000 if sys.platform == "linux" else 0  # mmap.MAP_NORESERVE is there from Python 3.13 on


class KernelFault(Exception):
    """A kernel touches what it must not: which program of the grid, which tensor, and what it does there."""


@dataclass
class Region:
    """A launch's memory under one tensor, or several that overlap, and which program has touched each byte of it."""

    name: str
    begin: int
    size: int

    def __post_init__(self) -> None:
        self.writer, self.reader = _nobodies(self.size), _nobodies(self.size)


def _nobodies(size: int) -> Numbers:
    """As many zeros, of which only those that are touched take memory: a tensor may have more bytes than the machine."""
    length = max(size, 1) * np.dtype(np.int32).itemsize
    return np.frombuffer(mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE), np.int32)


def _regions(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[Region]:
    """In the order of their addresses, each from a tensor's first byte to its last."""
    spans = sorted((t.data_ptr(), t.data_ptr() + _reach(t), name) for name, t in tensors if t.numel())
    while spans:
        begin, end, name = spans.pop(0)
        while spans and spans[0][0] < end:
            end = max(end, spans.pop(0)[1])
        yield Region(name, begin, end - begin)


def _reach(t: Tensor) -> int:
    """Bytes from a tensor's first element to behind its last."""
    return (sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) + 1) * t.element_size()


class Guard:
    """Watches one launch. Programs are numbered in the order in which they run."""

    def __init__(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        self._regions = list(_regions(tensors))
        self._begins = np.array([r.begin for r in self._regions], np.uint64)
        self._program, self._at = NOBODY, (0, 0, 0)

    def enter(self, x: int, y: int, z: int) -> None:
        """A program begins."""
        self._program, self._at = self._program + 1, (x, y, z)

    def load(self, pointers: Any, mask: Any) -> None:
        for region, offsets in self._places(pointers, mask, "loads"):
            others = region.writer[offsets]
            self._refuse_others(region, offsets, others, "loads what another program stores")
            region.reader[offsets] = np.where(self._of_others(region.reader[offsets]), SEVERAL, self._program)

    def store(self, pointers: Any, mask: Any) -> None:
        for region, offsets in self._places(pointers, mask, "stores"):
            if np.unique(offsets).size != offsets.size:
                raise self._fault(region, offsets[0], "stores to an address twice at once")
            self._refuse_others(region, offsets, region.writer[offsets], "stores to where another program stores")
            self._refuse_others(region, offsets, region.reader[offsets], "stores to where another program loads")
            region.writer[offsets] = self._program

    def _of_others(self, programs: Numbers) -> Numbers:
        found: Numbers = (programs != NOBODY) & (programs != self._program)
        return found

    def _refuse_others(self, region: Region, offsets: Numbers, others: Numbers, what: str) -> None:
        wrong = self._of_others(others)
        if wrong.any():
            raise self._fault(region, offsets[wrong][0], what)

    def _places(self, pointers: Any, mask: Any, what: str) -> Iterator[tuple[Region, Numbers]]:
        """The bytes that are touched, as offsets in each region."""
        width = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        wanted = np.broadcast_to(np.asarray(mask.data, bool), pointers.data.shape)
        addresses = pointers.data[wanted].astype(np.uint64)
        which = np.searchsorted(self._begins, addresses, "right").astype(np.int64) - 1
        for number in np.unique(which):
            mine = addresses[which == number]
            region = self._regions[max(number, 0)] if self._regions else Region("nothing", 0, 0)
            offsets = mine.astype(np.int64) - region.begin
            outside = (offsets < 0) | (offsets + width > region.size)
            if outside.any():
                raise self._fault(region, offsets[outside][0], f"{what} outside of its {region.size} bytes")
            yield region, (offsets[:, None] + np.arange(width)).ravel()

    def _fault(self, region: Region, offset: Any, what: str) -> KernelFault:
        return KernelFault(f"program {self._at} {what}: {region.name}, byte {int(offset)}")


@contextmanager
def guarded(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[Guard]:
    """Watch what is launched inside, with these tensors and no others. Raises KernelFault."""
    guard, builder = Guard(tensors), InterpreterBuilder
    names = ("create_masked_load", "create_masked_store", "set_grid_idx")
    load, store, enter = originals = [getattr(builder, name) for name in names]

    def watched_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        guard.load(pointers, mask)
        return load(self, pointers, mask, *rest)

    def watched_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        guard.store(pointers, mask)
        return store(self, pointers, value, mask, *rest)

    def entered(self: Any, x: int, y: int, z: int) -> Any:
        guard.enter(x, y, z)
        return enter(self, x, y, z)

    watching: tuple[Callable[..., Any], ...] = (watched_load, watched_store, entered)
    for name, watch in zip(names, watching, strict=True):
        setattr(builder, name, watch)
    try:
        yield guard
    finally:
        for name, original in zip(names, originals, strict=True):
            setattr(builder, name, original)
