"""Table handles: placements agree, prefetch runs ahead, failures surface in wait()."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles.compare import draw, same_bits
from torch import Tensor

from deepport import formats, ops
from deepport.table import PLACEMENTS, Placement, Table

CPU = torch.device("cpu")


def table(rows: Tensor, placement: Placement, scale: Tensor | None = None, format: str = formats.PLAIN) -> Table:
    return Table(rows, scale, format, device=CPU, dtype=torch.float32, placement=placement)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("format", [formats.PLAIN, "fp8_e4m3:1x32", "mxfp4", "int8:row"])
def test_placements_give_the_same_rows(placement: Placement, format: str) -> None:
    rows = draw(0, 30, 64).float()
    data, scale = (rows, None) if format == formats.PLAIN else formats.encode(rows, format)
    ids = torch.tensor([[0, 29], [7, 7]])
    expected = formats.decode(data, scale, format, torch.float32)[ids]
    handle = table(data, placement, scale, format)
    ticket = handle.prefetch(ids)
    assert same_bits(handle.gather(ids), expected)
    assert same_bits(ticket.wait(), expected)
    assert same_bits(ticket.wait(), expected), "a ticket can be asked again"


class Held:
    """A gather that does not end before it is let go, and notes what it was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go, self.asked = threading.Event(), threading.Event(), list[int]()
        self.gather = ops.engram_gather
        monkeypatch.setattr(ops, "engram_gather", self)

    def __call__(self, rows: Tensor, ids: Tensor, *rest: Any) -> Tensor:
        self.begun.set()
        assert self.go.wait(20)
        self.asked.append(int(ids[0]))
        return self.gather(rows, ids, *rest)


def test_prefetch_runs_ahead_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    held, rows = Held(monkeypatch), draw(0, 10, 4).float()
    handle = table(rows, "host")
    tickets = [handle.prefetch(torch.tensor([i])) for i in (3, 1, 2)]  # returns, though no gather can end
    assert held.begun.wait(20) and not held.asked
    held.go.set()
    for i, ticket in reversed(list(zip((3, 1, 2), tickets, strict=True))):
        assert torch.equal(ticket.wait(), rows[[i]])
    assert held.asked == [3, 1, 2]


def test_ids_may_change_after_prefetch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next step's ids are often written where this step's were."""
    held, rows, ids = Held(monkeypatch), draw(0, 10, 4).float(), torch.tensor([3])
    ticket = table(rows, "host").prefetch(ids)
    assert held.begun.wait(20)
    ids[0] = 5
    held.go.set()
    assert torch.equal(ticket.wait(), rows[[3]])


def test_a_bad_id_raises_in_wait_and_the_worker_lives_on() -> None:
    rows = draw(0, 10, 4).float()
    handle = table(rows, "host")
    bad, good = handle.prefetch(torch.tensor([10])), handle.prefetch(torch.tensor([9]))
    for _ in range(2):
        with pytest.raises(IndexError, match="outside the table's 10 rows"):
            bad.wait()
    assert torch.equal(good.wait(), rows[[9]])
    with pytest.raises(IndexError, match="outside the table's 10 rows"):
        table(rows, "device").prefetch(torch.tensor([-1]))


def test_only_the_device_has_a_gradient() -> None:
    rows, ids = draw(0, 10, 4).float().requires_grad_(), torch.tensor([1, 1])
    for fetch in (table(rows, "host").gather, table(rows, "host").prefetch):
        with pytest.raises(RuntimeError, match="has no gradient; train with placement='device'"):
            fetch(ids)
    with torch.no_grad():
        assert not table(rows, "host").prefetch(ids).wait().requires_grad
    table(rows, "device").prefetch(ids).wait().sum().backward()
    assert rows.grad is not None and rows.grad[1].tolist() == [2.0] * 4


def test_a_table_lies_where_its_placement_says() -> None:
    with pytest.raises(ValueError, match="a table placed on the host lies on cpu, not on meta"):
        table(torch.empty(2, 2, device="meta"), "host")


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_rows_past_two_to_the_33rd_bytes(placement: Placement, tmp_path: Path) -> None:
    """A sparse file of 9 GB: addresses are 64 bit, and only the gathered rows are read into memory."""
    count = (1 << 33) // 128 + 8
    rows = torch.from_file(str(tmp_path / "rows"), shared=True, size=count * 32, dtype=torch.float32).view(count, 32)
    ids = torch.tensor([count - 1, (1 << 31) // 128, (1 << 32) // 128 + 1, 0])
    for i in ids.tolist():
        rows[i] = i % 97 + 1
    before = resident()
    found = table(rows, placement).prefetch(ids).wait()
    assert found[:, 0].tolist() == [i % 97 + 1 for i in ids.tolist()]
    assert resident() - before < 64 << 20, "a gather copied the table"


def resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
