"""Memory tables behind a handle: where the rows live, and how they are fetched ahead of their use.

A table can be far larger than a device's memory. Its rows are addressed by token ids alone, so that the rows of a whole
forward pass can be asked for at its start: `prefetch` returns a ticket at once, and `Ticket.wait` the rows when a layer
needs them.

| placement | rows are in | fetched by |
|---|---|---|
| `device` | the device's memory | `engram_gather` on the device; has a gradient |
| `host` | the host's memory | a thread gathers into pinned staging memory, which a side stream copies |
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import cache
from typing import Literal, Protocol

import torch
from torch import Tensor

from deepport import backend, ops
from deepport.backend import Event
from deepport.graph import refuse

Placement = Literal["device", "host"]
PLACEMENTS: tuple[Placement, ...] = ("device", "host")


class Ticket(Protocol):
    """Rows on their way."""

    def wait(self) -> Tensor:
        """The rows `[..., D]`, on the device, ordered before what the current stream does next."""


class _Here:
    """Rows that the current stream has gathered already."""

    def __init__(self, rows: Tensor) -> None:
        self._rows = rows

    def wait(self) -> Tensor:
        return self._rows


class _Coming:
    """Rows that a worker gathers on the host and a side stream copies; `staging` is kept alive until the copy is done."""

    def __init__(self, result: Future[tuple[Tensor, Tensor, Event | None]]) -> None:
        self._result = result

    def wait(self) -> Tensor:
        rows, self._staging, copied = self._result.result()
        if copied is not None:
            with torch.accelerator.device_index(rows.device.index):
                copied.wait()
                rows.record_stream(torch.accelerator.current_stream())
        return rows


@cache
def _worker() -> ThreadPoolExecutor:
    # One thread: gathers are bound by memory bandwidth, and tickets are then served in the order they were asked for.
    return ThreadPoolExecutor(1, thread_name_prefix="deepport-prefetch")


class Table:
    """A handle on `rows [R, D]` in any number format whose blocks lie within a row.

    Args:
        rows, scale, format: the table (`deepport.formats`).
        device: where gathered rows are wanted, in `dtype`.
        placement: `device` (the rows are there already) or `host` (they are on the CPU).
    """

    def __init__(
        self,
        rows: Tensor,
        scale: Tensor | None,
        format: str,
        *,
        device: torch.device,
        dtype: torch.dtype,
        placement: Placement,
    ) -> None:
        expected = "cpu" if placement == "host" else device.type
        if rows.device.type != expected:
            raise ValueError(f"a table placed on the {placement} lies on {expected}, not on {rows.device.type}")
        self._rows, self._scale, self._format = rows, scale, format
        self.device, self.dtype, self.placement = device, dtype, placement

    def gather(self, ids: Tensor) -> Tensor:
        """`rows[ids]` [..., D] on the table's device, now."""
        if self.placement == "host" and torch.is_grad_enabled() and self._rows.requires_grad:
            raise RuntimeError("a table placed on the host has no gradient; train with placement='device'")
        return ops.engram_gather(self._rows, ids.to(self.device), self._scale, self._format, self.dtype)

    def prefetch(self, ids: Tensor) -> Ticket:
        """Start fetching `rows[ids]`. Ids on the CPU spare a host placement a wait for the device."""
        if self.placement == "device" or (torch.is_grad_enabled() and self._rows.requires_grad):
            return _Here(self.gather(ids))
        refuse("a table placed on the host is gathered by a thread of its own")
        # The worker serves in the caller's session; a context can be entered once, hence a copy per ticket.
        # Ids are copied: the caller may write the next step's into the same tensor.
        return _Coming(_worker().submit(copy_context().run, self._fetch, ids.to("cpu", copy=True)))

    def _fetch(self, ids: Tensor) -> tuple[Tensor, Tensor, Event | None]:
        with torch.no_grad():
            staged = ops.engram_gather(self._rows, ids, self._scale, self._format, self.dtype)
            started = backend.serving(self.device.type) if self.device.type != "cpu" else None
            if started is None:
                return staged.to(self.device), staged, None
            pinned, copied = staged.pin_memory(), started.runtime.event()
            # A stream is one device's: a copy to another would run on that one's own, and nothing would be recorded of it.
            with torch.accelerator.device_index(self.device.index), started.runtime.stream():
                rows = pinned.to(self.device, non_blocking=True)
                copied.record()
            return rows, pinned, copied
