"""Captured work on the CPU: replays equal calls bit for bit, are counted as calls are, and refused where they would be wrong."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
from sessions import Watching
from torch import Tensor

from deepport import ops
from deepport.graph import Repeated
from deepport.policy import Session
from deepport.record import Record
from deepport.table import Table

WEIGHT = torch.linspace(0.5, 2, 8)


def normed(x: Tensor) -> Tensor:
    """A kernel of ours, an operator of torch's, a view, and a kernel again."""
    return ops.rms_norm((ops.rms_norm(x, WEIGHT) + 1).view(2, 2, 8), WEIGHT)


def inputs(count: int = 5) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(4, 8, generator=g) for _ in range(count)]


@pytest.mark.parametrize("record", [None, Record()])
def test_replays_are_what_calls_would_be(record: Record | None) -> None:
    repeated = Repeated(normed)
    with torch.inference_mode(), Session(record=record):
        found = [repeated(x) for x in inputs()]
        assert not repeated.refusal
        assert all(torch.equal(f, normed(x)) for f, x in zip(found, inputs(), strict=True))


def test_replays_do_not_call_the_function() -> None:
    calls = []

    def counted(x: Tensor) -> Tensor:
        calls.append(x)
        return normed(x)

    repeated = Repeated(counted)
    with torch.inference_mode():
        for x in inputs():
            repeated(x)
        assert len(calls) == 2
        repeated(torch.ones(4, 8, dtype=torch.bfloat16))  # another signature
    assert len(calls) == 3


def test_replays_are_counted_as_calls_are() -> None:
    """By row: calls, flops and bytes as without capture, and some seconds."""
    called, replayed = Record(), Record()
    with torch.inference_mode():
        with Session(record=called):
            for x in inputs():
                normed(x)
        repeated = Repeated(normed)
        with Session(record=replayed):
            for x in inputs():
                repeated(x)
    for _ in range(2):  # reading does not count again
        (one,), (other,) = called.rows, replayed.rows
        assert (other.calls, other.flops, other.bytes) == (10, one.flops, one.bytes)
        assert (other.operator, other.implementation) == (one.operator, one.implementation)
        assert 0 < other.seconds < 1


def test_memory_written_to_is_the_cache_s_own() -> None:
    def accumulate(x: Tensor) -> Tensor:
        total.add_(x)
        return ops.rms_norm(total)

    expected, total = torch.zeros(4, 8), torch.zeros(4, 8)
    repeated = Repeated(accumulate)
    with torch.inference_mode():
        for x in inputs():
            expected += x
            assert torch.equal(repeated(x), ops.rms_norm(expected))


def test_memory_outlives_its_tensors() -> None:
    holder = {"weight": WEIGHT.clone()}
    repeated = Repeated(lambda x: ops.rms_norm(x, holder["weight"]))
    with torch.inference_mode():
        for x in inputs(2):
            repeated(x)
        holder["weight"].data = torch.zeros(8)
        del holder["weight"]
        gc.collect()
        held = [torch.full((8,), 7.0) for _ in range(100)]  # would take the place of what was freed
        (x, *_) = inputs()
        assert held and torch.equal(repeated(x), ops.rms_norm(x, WEIGHT))


def reads_the_input(x: Tensor) -> Tensor:
    return ops.rms_norm(x) * x.sum().item()


def lists_the_input(x: Tensor) -> Tensor:
    return ops.rms_norm(x) * x.tolist()[0][0]


def views_the_input(x: Tensor) -> Tensor:
    return ops.rms_norm(x) * float((x + 1).numpy()[0, 0])


def picks_by_a_mask(x: Tensor) -> Tensor:
    return ops.rms_norm(x)[x > 0].sum()[None]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (reads_the_input, "the host reads a tensor that changes from call to call"),
        (lists_the_input, "the host reads a tensor that changes from call to call"),
        (views_the_input, "the host reads a tensor that changes from call to call"),
        (picks_by_a_mask, "a shape depends on data"),
    ],
)
def test_what_depends_on_data_is_called_each_time(function: Callable[[Tensor], Tensor], reason: str) -> None:
    repeated = Repeated(function)
    with torch.inference_mode():
        assert all(torch.equal(repeated(x), function(x)) for x in inputs())
    assert reason in repeated.refusal


def test_a_table_of_the_host_is_gathered_each_time() -> None:
    rows = torch.randn(50, 8)
    table = Table(rows, None, "plain", device=torch.device("cpu"), dtype=torch.float32, placement="host")
    repeated = Repeated(lambda ids: ops.rms_norm(table.prefetch(ids).wait()))
    with torch.inference_mode():
        for n in range(5):
            ids = torch.tensor([n, 2 * n, 49])
            assert torch.equal(repeated(ids), ops.rms_norm(rows[ids]))
    assert "thread of its own" in repeated.refusal


def test_a_constant_may_be_read_on_the_host() -> None:
    repeated = Repeated(lambda x: ops.rms_norm(x, eps=float(WEIGHT[0])))
    with torch.inference_mode():
        assert all(torch.equal(repeated(x), ops.rms_norm(x, eps=0.5)) for x in inputs())
    assert not repeated.refusal


def test_a_session_that_watches_sees_every_call() -> None:
    record, repeated = Record(), Repeated(normed)
    with torch.inference_mode(), Watching(record=record):
        for x in inputs():
            repeated(x)
    assert not repeated._captured
    assert record.rows[0].calls == 10


def test_gradients_are_recorded() -> None:
    repeated = Repeated(normed)
    for x in inputs():
        assert repeated(x.requires_grad_()).requires_grad
