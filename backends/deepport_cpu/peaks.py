"""What this processor does at most, probed by loops that do nothing else (`csrc/cpu/probe.h`), at the level in use."""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Callable, Iterator
from functools import cache, partial

import torch
from torch import Tensor

from deepport.bench.machine import caches
from deepport.bench.peak import GATHERED, MEMORY, Peak, Work, gather_name, gemm_name
from deepport_cpu.native import call

_AHEAD = 16
"""Rows that are asked for before one is read: memory answers that many at a time."""

_READ = 64 << 20
"""Bytes that a probe of a cache reads, over and over: some milliseconds' work."""

_PRODUCTS = 200_000
"""Rounds of a probe of arithmetic."""

_HELD = 0.6
"""The part of a cache that a probe reads over and over: the rest is for what else the cores do."""


def peaks(beyond: int) -> Iterator[Peak]:
    """`beyond`: bytes that no cache keeps."""
    by, buffer = f"loops for {call.level}", cache(lambda: _huge(beyond))
    yield Peak(MEMORY, "B/s", partial(_read, buffer, beyond), by)
    for level in caches():
        size = min(int(level.bytes * _HELD), beyond)
        yield Peak(f"read {level.level}", "B/s", partial(_read, buffer, size), by, holds=level.bytes)
    for row in GATHERED:
        yield Peak(gather_name(row), "B/s", partial(_gather, buffer, row), by)
    for dtype in (torch.float32, torch.bfloat16):
        yield Peak(gemm_name(str(dtype).removeprefix("torch.")), "flop/s", partial(_products, dtype), by)
    if _products_int8()():
        yield Peak(gemm_name("int8"), "flop/s", _products_int8, by)


def _huge(size: int) -> Tensor:
    """Ones, in pages of 2 MB where the system gives them: with small ones, finding a page costs more than reading it."""
    mapped = mmap.mmap(-1, -(-size // (2 << 20)) * (2 << 20))
    if hasattr(mmap, "MADV_HUGEPAGE"):
        mapped.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(mapped, dtype=torch.float32).fill_(1.0)


def _sums() -> Tensor:
    """Room for a number from every thread."""
    return torch.empty(torch.get_num_threads())


def _read(buffer: Callable[[], Tensor], size: int) -> Work:
    data, sums, rounds = buffer(), _sums(), max(_READ // size, 1)

    def work() -> float:
        call.probe_read(data, sums, size, rounds)
        return float(size * rounds)

    return work


def _gather(buffer: Callable[[], Tensor], row: int) -> Work:
    table, sums = buffer(), _sums()
    rows = 4 * table.numel() // row
    draws = deque(torch.randint(0, rows, (rows // 16,)) for _ in range(8))

    def work() -> float:
        draws.rotate()  # the last draw's rows may still be in a cache
        call.probe_gather(table, draws[0], sums, len(draws[0]), row, _AHEAD)
        return float(len(draws[0]) * row)

    return work


def _products(dtype: torch.dtype) -> Work:
    operations, sums = torch.empty(1, dtype=torch.float64), _sums()

    def work() -> float:
        call.probe_products(operations, sums, dtype, _PRODUCTS)
        return float(operations)

    return work


def _products_int8() -> Work:
    operations, sums = torch.empty(1, dtype=torch.float64), _sums()

    def work() -> float:
        call.probe_products_int8(operations, sums, _PRODUCTS)
        return float(operations)

    return work
