"""Rows of a table on the host, fetched for the NPU one after another and used late: `tables.py [DEVICE]`.

Prints, for the code as it is and with each of its safeguards taken away, whether the rows were right.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch_npu  # noqa: F401  (registers the device)
from torch import Tensor

from deepport import backend, formats
from deepport.runtime import TorchRuntime
from deepport.table import Table

SIDE_STREAMS = 32
"""Those that torch has; then it gives out the first one again."""

FETCHES = 40
"""More than that, so that memory of a side stream is given out again, too."""


def right(device: torch.device) -> bool:
    """Every fetch is of other rows, and all are used before the device has done anything.

    Either is then as far ahead as it likes: what uses rows, or the streams that bring them.
    """
    return all(_right(device, ahead) for ahead in (False, True))


def _right(device: torch.device, streams_ahead: bool) -> bool:
    rows = torch.arange(FETCHES * 64, dtype=torch.float32).view(FETCHES, 64)
    table = Table(rows, None, formats.PLAIN, device=device, dtype=torch.float32, placement="host")
    found = [table.prefetch(torch.full((1000,), i)).wait() * 2 for i in range(FETCHES)]
    if streams_ahead:
        for _ in range(SIDE_STREAMS):
            torch.npu.Stream(device).synchronize()
    return all(torch.equal(f.cpu(), 2 * rows[i].expand(1000, -1)) for i, f in enumerate(found))


class Unheeded:
    """An event that nobody waits for."""

    def record(self) -> None: ...

    def wait(self) -> None: ...


@contextmanager
def one_staging_buffer() -> Iterator[None]:
    """The next rows are staged where the last ones still are."""
    kept: list[Tensor] = []
    pin = Tensor.pin_memory

    def again(self: Tensor) -> Tensor:
        kept[:] = kept or [pin(self)]
        return kept[0].copy_(self)

    with mock.patch.object(Tensor, "pin_memory", again):
        yield


def without(target: Any, name: str, instead: Any) -> Any:
    return mock.patch.object(target, name, instead)


def main(device: str = "npu") -> None:
    place = torch.device(device)
    backend.start("npu")
    found = {"as it is": right(place)}
    with without(TorchRuntime, "event", lambda self: Unheeded()):
        found["no wait for the copy"] = right(place)
    with one_staging_buffer():
        found["staging used again too early"] = right(place)
    with without(Tensor, "record_stream", lambda self, stream: None):
        found["memory given out again too early"] = right(place)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
