"""What there is to find out about a device's limits, and how to, with torch alone.

A backend that can come closer to its device's limits than torch offers peaks of its own: `peaks()` of `deepport.backend`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

import torch
from torch import Tensor

Work = Callable[[], float]
"""Does a fixed amount of one thing, and returns the amount: bytes that were read, or arithmetic operations."""

MEMORY = "read memory"
GATHERED = (256, 512, 1024)
"""Bytes of the rows that are read at random."""

_DTYPES = (torch.float32, torch.bfloat16)
_SIZE = 2048


def gather_name(row: int) -> str:
    return f"gather {row} B"


def gemm_name(dtype: str) -> str:
    return f"gemm {dtype}"


@dataclass(frozen=True)
class Peak:
    """One thing that a device does at most so fast.

    Attributes:
        name: `read memory`, `read L2`, `gather 512 B`, `gemm bfloat16`.
        unit: of the rate.
        start: allocates what is needed and gives the work, which is timed from outside, by the device's clock.
        by: what does it, as reports name it.
        holds: bytes of a cache, all cores' together, for the reading of what it holds; 0 for all else.
    """

    name: str
    unit: Literal["B/s", "flop/s"]
    start: Callable[[], Work]
    by: str = "torch"
    holds: int = 0


def torch_peaks(
    device: torch.device, beyond: int, dtypes: Sequence[torch.dtype] = _DTYPES, size: int = _SIZE
) -> Sequence[Peak]:
    """By torch's own kernels: `beyond` bytes are more than any cache holds; products are of `size` rows and columns."""
    buffer = cache(lambda: torch.ones(beyond // 4, device=device))
    gathers = [Peak(gather_name(row), "B/s", partial(_gather, buffer, row)) for row in GATHERED]
    names = {gemm_name(str(dtype).removeprefix("torch.")): dtype for dtype in dtypes}
    gemms = [Peak(name, "flop/s", partial(_gemm, device, dtype, size)) for name, dtype in names.items()]
    return (Peak(MEMORY, "B/s", partial(_read, buffer)), *gathers, *gemms)


def _read(buffer: Callable[[], Tensor]) -> Work:
    data = buffer()

    def work() -> float:
        data.sum()
        return 4.0 * data.numel()

    return work


def _gather(buffer: Callable[[], Tensor], row: int) -> Work:
    table = buffer()
    table = table[: table.numel() // (row // 4) * (row // 4)].view(-1, row // 4)
    count = max(len(table) // 16, 1)
    draws = deque(torch.randint(0, len(table), (count,)).to(table.device) for _ in range(8))
    taken = torch.empty(count, row // 4, device=table.device)

    def work() -> float:
        draws.rotate()  # the last draw's rows may still be in a cache
        torch.index_select(table, 0, draws[0], out=taken)
        return float(count * row)

    return work


def _gemm(device: torch.device, dtype: torch.dtype, size: int) -> Work:
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)

    def work() -> float:
        torch.mm(a, b, out=out)
        return 2.0 * size**3

    return work
