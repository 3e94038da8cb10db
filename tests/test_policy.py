"""Who serves a call under each policy, and what the record says of it."""

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import HONEST, acme
from gemm import GEMMS, NARROW
from torch import Tensor

from deepport import backend, ops
from deepport.backend import Event, Memory
from deepport.errors import FallbackBudgetExceeded, Unsupported
from deepport.op import Operator, operators
from deepport.policy import Session
from deepport.record import Record, Row
from deepport.runtime import HostRuntime
from deepport.server import current_server

BFLOAT16 = torch.bfloat16


@pytest.fixture(autouse=True)
def gemms(cpu_kernels: Callable[..., None]) -> None:
    """Who serves here does not depend on the kernels that the CPU has."""
    cpu_kernels(*GEMMS)


def first_case(operator: Operator[..., Any], label: str = "") -> dict[str, Any]:
    return next(c for c in operator.cases if label in c.label).arguments()


def served(record: Record) -> list[tuple[str, str, int]]:
    return [(r.operator, r.implementation, r.calls) for r in record.rows]


def linear(dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    return ops.linear(torch.ones(2, 4, dtype=dtype, device=device), torch.ones(3, 4, dtype=dtype, device=device))


# device


@pytest.mark.parametrize("recorded", [False, True])
def test_an_error_says_in_which_call_and_with_what(recorded: bool) -> None:
    record = Record() if recorded else None
    with Session(record=record), pytest.raises(RuntimeError) as caught:
        ops.rms_norm(torch.ones(2, 3), torch.ones(4, dtype=BFLOAT16), 1e-6)
    assert caught.value.__notes__ == ["in rms_norm(x float32 2x3, weight bfloat16 4, eps 1e-06) by reference"]


def test_an_error_of_a_device_that_runs_behind_may_be_an_earlier_call_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend.start("cpu").runtime, "blocking", "WAIT=1", raising=False)
    with Session(backend="cpu"), pytest.raises(RuntimeError) as caught:
        ops.rms_norm(torch.ones(2, 3), torch.ones(4), 1e-6)
    assert caught.value.__notes__[0].endswith(", or in an earlier call: WAIT=1 makes each wait for the device")


def test_a_kernel_serves_what_it_takes_and_the_reference_the_rest() -> None:
    with Session(record=Record()) as session:
        linear(BFLOAT16)
        linear()
        linear()
        ops.rms_norm(torch.ones(2, 4), None, 1e-6)
    assert session.record is not None
    assert served(session.record) == [
        ("linear", "cpu/gemm", 1),
        ("linear", "reference", 2),
        ("rms_norm", "reference", 1),
    ]
    assert session.record.references == ["linear", "rms_norm"]
    assert [r.refusals for r in session.record.rows] == [(), (("cpu/gemm", NARROW),), ()]


def test_without_a_backend_the_device_serves_by_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "serving", lambda device_type: None)
    with Session(record=(record := Record())):
        linear(BFLOAT16)
    assert served(record) == [("linear", "reference", 1)]


def test_the_home_argument_chooses_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """engram_gather's table may lie elsewhere; here it is on meta, and asking is enough."""
    asked = list[str]()
    monkeypatch.setattr(backend, "serving", asked.append)
    rows, ids = torch.ones(4, 32, device="meta"), torch.zeros(2, dtype=torch.int64)
    for arguments, operator in (((rows, ids), ops.engram_gather), ((rows, rows), ops.linear)):
        Session()._backend(operator, arguments)
    assert asked == ["cpu", "meta"]


# error


def test_error_refuses_a_reference_and_says_who_refused() -> None:
    assert Unsupported.exit_code == 4
    with Session("error"):
        assert linear(BFLOAT16).shape == (2, 3)
        with pytest.raises(Unsupported) as caught:
            linear()
        assert str(caught.value) == f"linear: cpu: cpu/gemm refuses ({NARROW})"
        with pytest.raises(Unsupported) as caught:
            ops.rms_norm(torch.ones(2, 4), None, 1e-6)
        assert str(caught.value) == "rms_norm: cpu: no kernel is declared"


def test_error_without_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "serving", lambda device_type: None)
    with Session("error"), pytest.raises(Unsupported) as caught:
        linear(BFLOAT16)
    assert str(caught.value) == "linear: no backend: no kernel is declared"


def test_error_refuses_a_reference_in_the_backward_pass() -> None:
    x = torch.ones(2, 4, dtype=BFLOAT16, requires_grad=True)
    with Session("error"):
        y = ops.linear(x, torch.ones(3, 4, dtype=BFLOAT16)).sum()
        with pytest.raises(Unsupported, match=r"^linear_backward: cpu: no kernel is declared$"):
            y.backward()


# host


class Elsewhere(Tensor):
    """A tensor that stands for one of a device: `cpu()` copies it, and results come back by `to()`."""

    def cpu(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.as_subclass(Tensor).clone()


def test_host_computes_the_listed_operators_within_the_budget() -> None:
    record = Record()
    with Session("host", host=frozenset({"linear"}), host_budget=2, record=record) as session:
        assert torch.equal(linear(), torch.full((2, 3), 4.0))
        linear(BFLOAT16)
        ops.rms_norm(torch.ones(2, 4), None, 1e-6)
        linear()
        with pytest.raises(FallbackBudgetExceeded) as caught:
            linear()
    assert str(caught.value) == (
        "linear: more than 2 calls fell back to the host; raise --fallback-budget or remove the operator from "
        "--fallback host:..."
    )
    assert caught.value.exit_code == 5
    assert session.host_calls == 3
    assert [(o, i) for o, i, _ in served(record)] == [
        ("linear", "reference on host"),
        ("linear", "cpu/gemm"),
        ("rms_norm", "reference"),
    ]
    assert record.references == ["linear", "rms_norm"]


def test_host_copies_mutated_arguments_back() -> None:
    arguments, expected = first_case(ops.write_pages_), first_case(ops.write_pages_)
    ops.write_pages_.reference(**expected)
    pages = arguments["pages"].as_subclass(Elsewhere)
    before = pages.clone()
    with Session("host", host=frozenset({"write_pages_"}), host_budget=1):
        ops.write_pages_(**(arguments | {"pages": pages}))
    assert torch.equal(pages.as_subclass(Tensor), expected["pages"])
    assert not torch.equal(pages.as_subclass(Tensor), before.as_subclass(Tensor))


def test_host_moves_tensors_inside_lists() -> None:
    """A backward operator takes its gradients as a list, some of them None."""
    moved = list[Tensor | None]()

    class Spy(Elsewhere):
        def cpu(self, *args: Any, **kwargs: Any) -> Tensor:
            moved.append(self)
            return super().cpu()

    x, w = torch.ones(2, 4), torch.ones(3, 4)
    arguments = ([torch.ones(2, 3).as_subclass(Spy)], [True, False], x, w)
    backward = operators["linear_backward"]
    with Session("host", host=frozenset({"linear_backward"}), host_budget=1) as session:
        (grad,) = session._on_host(backward, arguments)
    assert len(moved) == 1
    assert torch.equal(grad, torch.full((2, 4), 3.0))


# sessions


def test_sessions_nest_and_end() -> None:
    outer, inner = Record(), Record()
    with Session(record=outer):
        linear()
        with Session(record=inner):
            linear()
        linear()
    linear()
    assert served(outer) == [("linear", "reference", 2)]
    assert served(inner) == [("linear", "reference", 1)]


def test_a_session_ends_with_an_exception() -> None:
    with pytest.raises(ZeroDivisionError), Session("error"):
        raise ZeroDivisionError
    assert linear().shape == (2, 3)


def in_thread(run: Callable[[], None]) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(run).result()


def test_threads_and_contexts_have_sessions_of_their_own() -> None:
    mine, theirs = Record(), Record()

    def elsewhere() -> None:
        linear()
        with Session(record=theirs):
            linear()

    with Session(record=mine):
        in_thread(elsewhere)
        contextvars.Context().run(elsewhere)
        linear()
    assert served(mine) == [("linear", "reference", 1)]
    assert served(theirs) == [("linear", "reference", 2)]


def test_one_session_may_be_entered_in_two_threads() -> None:
    """Left in the order in which they were entered, not the reverse."""
    session, entered, left = Session(), threading.Event(), threading.Event()

    def second() -> None:
        with session:
            entered.set()
            assert left.wait(10)
            assert current_server.get() is session
        assert current_server.get(None) is None

    with ThreadPoolExecutor(1) as pool:
        with session:
            running = pool.submit(second)
            assert entered.wait(10)
        left.set()
        running.result()
    assert current_server.get(None) is None


def test_backward_is_served_by_the_session_of_its_forward() -> None:
    record = Record()
    x = torch.ones(2, 4, requires_grad=True)
    with Session(record=record):
        y = ops.linear(x, torch.ones(3, 4))
    with Session("error"):  # in force where backward() is called, but not where the graph was made
        y.sum().backward()
    assert served(record) == [("linear", "reference", 1), ("linear_backward", "reference", 1)]
    assert x.grad is not None and torch.equal(x.grad, torch.full((2, 4), 3.0))


def test_backward_finds_its_session_from_another_thread() -> None:
    """Devices' backward passes run on threads of their own."""
    record = Record()
    x = torch.ones(2, 4, requires_grad=True)
    with Session(record=record):
        y = ops.linear(x, torch.ones(3, 4)).sum()
        in_thread(y.backward)
    assert ("linear_backward", "reference", 1) in served(record)


# the record


def test_bytes_and_flops_are_the_cost_formula() -> None:
    with Session(record=(record := Record())):
        linear()
        linear()
        ops.write_pages_(**first_case(ops.write_pages_))
    cost = ops.linear.cost(torch.ones(2, 4), torch.ones(3, 4), None, "plain")
    written = ops.write_pages_.cost(**first_case(ops.write_pages_))
    assert cost.flops == 2 * 2 * 3 * 4 and cost.bytes == 4 * (2 * 4 + 3 * 4 + 2 * 3)
    assert [(r.flops, r.bytes) for r in record.rows] == [
        (2 * cost.flops, 2 * cost.bytes),
        (written.flops, written.bytes),
    ]


def test_a_composed_kernel_calls_operators_that_are_recorded_too() -> None:
    case = next(c for c in ops.moe_experts.cases if "bfloat16" in c.label and c.arguments()["format"] == "plain")
    with Session(record=(record := Record())):
        ops.moe_experts(**case.arguments())
    assert served(record) == [
        ("moe_experts", "cpu/composed", 1),
        ("moe_dispatch", "reference", 1),
        ("grouped_linear", "cpu/gemm", 2),
        ("swiglu", "reference", 1),
        ("moe_combine", "reference", 1),
    ]
    assert all(r.seconds > 0 for r in record.rows)


class Clock:
    """A simulated asynchronous device, on which time passes when the test says so."""

    asynchronous = True

    def __init__(self) -> None:
        self.now, self.waits = 0.0, 0

    def event(self) -> Event:
        clock = self

        class Tick:
            at = -1.0

            def record(self) -> None:
                self.at = clock.now

            def wait(self) -> None: ...

            def seconds_since(self, earlier: Any) -> float:
                clock.waits += 1
                return self.at - float(earlier.at)

        return Tick()

    def synchronize(self) -> None: ...

    def stream(self) -> Any: ...

    def memory(self) -> Memory:
        return Memory(0, 0, 0, 0)

    def reset_peak(self) -> None: ...


def test_seconds_exclude_operators_called_from_inside() -> None:
    clock, record, x = Clock(), Record(), torch.ones(1, 2)

    def spend(seconds: float) -> None:
        clock.now += seconds

    def inner(*_: Any) -> None:
        spend(4)

    def outer(*_: Any) -> None:
        spend(1)
        record.timed(ops.swiglu, "inner", (), clock, inner, (x, x))
        record.timed(ops.swiglu, "inner", (), clock, inner, (x, x))
        spend(2)

    record.timed(ops.linear, "outer", (), clock, outer, (x, x))
    assert clock.waits == 0, "the record waited for the device between calls"
    assert [(r.implementation, r.calls, r.seconds) for r in record.rows] == [("outer", 1, 3.0), ("inner", 2, 8.0)]
    assert [(r.implementation, r.seconds) for r in record.totals()] == [("inner", 8.0), ("outer", 3.0)]
    assert [r.seconds for r in record.rows] == [3.0, 8.0], "reading the rows counted the time again"


def test_outstanding_device_events_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepport.record._PENDING", 3)
    clock, record, x = Clock(), Record(), torch.ones(1, 2)
    for _ in range(4):
        record.timed(ops.swiglu, "k", (), clock, lambda *_: None, (x, x))
    assert clock.waits == 4


def test_a_call_that_raises_leaves_the_record_whole() -> None:
    record, x = Record(), torch.ones(2, 4)
    with Session(record=record):
        with pytest.raises(RuntimeError):
            ops.linear(x, torch.ones(3, 5))
        linear()
    assert served(record) == [("linear", "reference", 2)]
    assert all(row.seconds >= 0 for row in record.rows), "the failed call still counts as the caller of the next"


def test_rows_are_kept_by_call_site_and_summed_in_totals() -> None:
    where = iter(["layers.0", "layers.1", "layers.0"])
    with Session(record=(record := Record(lambda: next(where)))):
        for _ in range(3):
            linear()
    assert [(r.site, r.calls) for r in record.rows] == [("layers.0", 2), ("layers.1", 1)]
    (total,) = record.totals()
    assert (total.site, total.calls) == ("", 3)
    assert total.bytes == sum(r.bytes for r in record.rows)
    assert record.as_json()[0]["calls"] == 3


# planning


def test_planning_on_meta_records_who_would_serve_and_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any) -> Any:
        raise AssertionError("planning ran the operator")

    record, runtime = Record(), HostRuntime()
    monkeypatch.setattr(backend.start("cpu"), "runtime", runtime)
    monkeypatch.setattr(ops.linear, "reference", forbidden)
    with Session("error", backend="cpu", record=record):
        y = linear(BFLOAT16, "meta")
        linear(torch.float32, "meta")
        ops.rms_norm(y, None, 1e-6)
        pages, table, values, positions, cu = (torch.empty(s, device="meta") for s in ((2, 4, 8), (1, 2), (3, 8), 3, 2))
        ops.write_pages_(pages, table, values, positions, cu)
    assert y.shape == (2, 3) and y.is_meta
    assert record.rows == [
        Row("linear", "cpu/gemm", calls=1, flops=48.0, bytes=52.0),
        Row("linear", "reference", calls=1, flops=48.0, bytes=104.0, refusals=(("cpu/gemm", NARROW),)),
        Row("rms_norm", "reference", calls=1, flops=record.rows[2].flops, bytes=record.rows[2].bytes),
        Row("write_pages_", "reference", calls=1, flops=0.0, bytes=record.rows[3].bytes),
    ]


def test_planning_spends_no_host_budget() -> None:
    with Session("host", host=frozenset({"linear"}), backend="cpu", record=(record := Record())) as session:
        linear(device="meta")
    assert session.host_calls == 0
    assert served(record) == [("linear", "reference on host", 1)]


def test_planning_a_composed_kernel_does_not_look_inside() -> None:
    case = next(c for c in ops.moe_experts.cases if "bfloat16" in c.label and c.arguments()["format"] == "plain")
    arguments: dict[str, Any] = {n: a.to("meta") if isinstance(a, Tensor) else a for n, a in case.arguments().items()}
    with Session(backend="cpu", record=(record := Record())):
        ops.moe_experts(**arguments)
    assert served(record) == [("moe_experts", "cpu/composed", 1)]


def test_a_named_backend_serves_whatever_the_device(install: Callable[..., Path]) -> None:
    """A simulation of an accelerator, asked to plan for tensors without data."""
    install("acme", acme(HONEST["linear"]))
    with Session(backend="acme", record=(record := Record())):
        linear(BFLOAT16)
        linear(BFLOAT16, "meta")
    assert served(record) == [("linear", "acme/fast", 2)]


def test_threads_record_into_one_record() -> None:
    """As a table's prefetch thread does beside the thread that computes."""
    record, x = Record(), torch.ones(2, 4)

    def work() -> None:
        with Session(record=record):
            for _ in range(300):
                ops.moe_experts(x.bfloat16(), *_experts())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = record.totals()
    assert {row.operator: row.calls for row in rows}["moe_experts"] == 4 * 300
    assert {row.operator: row.calls for row in rows}["grouped_linear"] == 2 * 4 * 300
    assert all(row.seconds >= 0 for row in rows)


def _experts() -> tuple[Any, ...]:
    ids, weights = torch.zeros(2, 1, dtype=torch.int32), torch.ones(2, 1)
    return ids, weights, torch.ones(1, 4, 4).bfloat16(), torch.ones(1, 4, 2).bfloat16(), None
