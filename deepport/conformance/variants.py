"""Far memory: the same call with its cached rows past 2^31 elements, so past 2^31 bytes too.

On the CPU the rows lie in a mapping of which only the touched pages become memory. A kernel that computes addresses in 32 bits
lands in the zeros of the same mapping, before the tensor or inside it: it gives wrong numbers and does not end the process.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deepport import backend
from deepport.conformance.contract import Arguments

FAR = 1 << 31
"""Elements before the first far row: a signed 32-bit index is then negative."""

_ROOM = FAR // 4
"""Elements over which the rows are spread."""

_NORESERVE = 0x4000 if sys.platform == "linux" else 0  # mmap.MAP_NORESERVE is there from Python 3.13 on
_SPARE = 1 << 30
"""Bytes of an accelerator's memory that are left to others."""

Collect = Callable[[list[Tensor]], list[Tensor]]


class NotHere(Exception):
    """This machine cannot hold such memory; the text says why."""


class Strayed(Exception):
    """A call wrote beside the rows that are its own."""


@dataclass(frozen=True)
class _Rows:
    """Arguments whose rows are addressed by the same ids; an argument may be None. `written`: the call writes to the first."""

    data: tuple[str, ...]
    ids: str
    written: bool = False


_MOVABLE: dict[str, tuple[_Rows, ...]] = {
    "engram_gather": (_Rows(("rows", "scale"), "ids"),),
    "index_topk": (_Rows(("pages",), "table"),),
    "sparse_attention": (
        _Rows(("window_pages",), "window_table"),
        _Rows(("compressed_pages",), "compressed_table"),
    ),
    "write_pages_": (_Rows(("pages",), "table", written=True),),
}


def far(operator: str, arguments: Arguments, device: torch.device) -> tuple[dict[str, Any], Collect]:
    """These arguments on a device with their rows far apart, and what brings the call's outputs back to the ordinary shapes.

    Raises NotHere where there is no such memory. Collecting raises Strayed where something beside the rows was written.
    """
    moved, collect = dict(arguments), _as_they_are
    for group in _MOVABLE[operator]:
        present = [n for n in group.data if arguments[n] is not None]
        if not present:
            continue
        places = _places(arguments[present[0]].shape[0], min(arguments[n][0].numel() for n in present))
        for name in present:
            moved[name] = _placed(arguments[name], places, device)
        moved[group.ids] = places[arguments[group.ids].long()].to(arguments[group.ids].dtype).to(device)
        if group.written:
            collect = _Collected(places, arguments[present[0]])
    return {n: a.to(device) if isinstance(a, Tensor) and a is arguments[n] else a for n, a in moved.items()}, collect


def _places(count: int, smallest: int) -> Tensor:
    """`[count]`: where rows of at least `smallest` elements go, so that all are far, and none is another's neighbour."""
    step = max(_ROOM // smallest // max(count, 1), 3)
    return -(-FAR // smallest) + 1 + torch.arange(count) * step


def _placed(rows: Tensor, places: Tensor, device: torch.device) -> Tensor:
    """The rows at their places in memory of zeros, with room for negative 32-bit indices before it."""
    count, width = int(places[-1]) + 2, rows[0].nbytes
    before = FAR * rows.element_size()
    memory = _zeros(before + count * width, device)
    memory[before:].view(count, width)[places.to(device)] = _bytes(rows).to(device)
    return memory.view(rows.dtype)[FAR:].view(count, *rows.shape[1:])


def _bytes(rows: Tensor) -> Tensor:
    """`[N, bytes]`."""
    return rows.contiguous().view(torch.uint8).flatten(1)


def _zeros(size: int, device: torch.device) -> Tensor:
    if device.type != "cpu":
        _check_free(size, device)
        return torch.zeros(size, dtype=torch.uint8, device=device)
    try:
        mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
    except (OSError, OverflowError) as error:
        raise NotHere(f"{size >> 30} GiB of address space cannot be reserved: {error}") from error
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        mapping.madvise(mmap.MADV_NOHUGEPAGE)  # a touched byte would otherwise cost 2 MiB
    return torch.frombuffer(mapping, dtype=torch.uint8)  # the tensor keeps the mapping, which ends with it


def _check_free(size: int, device: torch.device) -> None:
    started = backend.serving(device.type)
    free = started.runtime.memory().free if started is not None else 0
    if free < size + _SPARE:
        raise NotHere(f"rows past 2^31 elements need {size >> 30} GiB on {device}, of which {free >> 30} are free")


def _as_they_are(outputs: list[Tensor]) -> list[Tensor]:
    return outputs


@dataclass(frozen=True)
class _Collected:
    """The last output, far pages, brought together again."""

    places: Tensor
    like: Tensor

    def __call__(self, outputs: list[Tensor]) -> list[Tensor]:
        *others, written = outputs
        rows = written.flatten(1).view(torch.uint8)
        places = self.places.to(written.device)
        for side in (-1, 1):
            if bool(rows[places + side].any()):
                raise Strayed("memory beside the pages was written to")
        together = rows[places].view(self.like.dtype).view(self.like.shape)
        return [*others, together]
