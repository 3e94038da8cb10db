"""The record of a run or a plan: who served which operator, how often, how long, and over how many bytes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from deepport.backend import Event, Runtime
from deepport.errors import late

if TYPE_CHECKING:
    from deepport.op import Operator

_PENDING = 4096
"""Calls whose device time may be outstanding before the record waits for them."""


@dataclass
class Row:
    """One operator as one implementation served it. `seconds` excludes operators that were called from inside."""

    operator: str
    implementation: str
    site: str = ""
    calls: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0
    refusals: tuple[tuple[str, str], ...] = ()

    def add(self, other: Row) -> None:
        """Count another row's calls as this one's."""
        self.calls += other.calls
        self.seconds += other.seconds
        self.flops += other.flops
        self.bytes += other.bytes


def called(
    error: Exception,
    operator: Operator[..., Any],
    arguments: tuple[Any, ...],
    implementation: str,
    runtime: Runtime | None,
) -> str:
    """Which call it was, for who reads of its error; and, where that may be an earlier call's, how to make each wait."""
    blocking = getattr(runtime, "blocking", "") if late(error) else ""
    behind = f", or in an earlier call: {blocking} makes each wait for the device" if blocking else ""
    return f"in {operator.signature(arguments)} by {implementation}{behind}"


class HostEvent:
    """A point in time on the host."""

    at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def wait(self) -> None:
        """The host's work is already done where it is recorded."""

    def seconds_since(self, earlier: HostEvent) -> float:
        return self.at - earlier.at


class Record:
    """Rows by (operator, implementation), and by call site where one is known.

    `site` is called at each call for the name of the place in the model, "" for none.
    """

    def __init__(self, site: Callable[[], str] = lambda: "") -> None:
        self._rows: dict[tuple[str, str, str], Row] = {}
        self._pending: list[tuple[Row, Row | None, Event, Event]] = []
        # A table's prefetch thread records beside the thread that computes: each has a call stack of its own.
        self._lock, self._thread = threading.Lock(), threading.local()
        self._site = site
        self._journal: list[Row] | None = None
        self._followed: list[Callable[[], Iterable[Row]]] = []

    @property
    def rows(self) -> list[Row]:
        with self._lock:
            self._resolve()
            for row in (r for replayed in self._followed for r in replayed()):
                self._rows[row.operator, row.implementation, row.site].add(row)
            return list(self._rows.values())

    @property
    def references(self) -> list[str]:
        """The operators that a reference served, in order of first call."""
        return list(dict.fromkeys(r.operator for r in self._rows.values() if r.implementation.startswith("reference")))

    def totals(self) -> list[Row]:
        """Rows summed over call sites, the slowest first."""
        found: dict[tuple[str, str], Row] = {}
        for row in self.rows:
            total = found.setdefault((row.operator, row.implementation), Row(row.operator, row.implementation))
            total.add(row)
            total.refusals = row.refusals
        return sorted(found.values(), key=lambda r: (-r.seconds, r.operator))

    def as_json(self) -> list[dict[str, Any]]:
        return [asdict(row) for row in self.totals()]

    def timed(
        self,
        operator: Operator[..., Any],
        implementation: str,
        refusals: tuple[tuple[str, str], ...],
        runtime: Runtime | None,
        run: Callable[..., Any],
        arguments: tuple[Any, ...],
    ) -> Any:
        """Run a call and count it."""
        with self._lock:
            row = self._count(operator, implementation, refusals, arguments)
        asynchronous = runtime is not None and runtime.asynchronous
        begin, end = (runtime.event(), runtime.event()) if runtime and asynchronous else (HostEvent(), HostEvent())
        caller, self._thread.row = getattr(self._thread, "row", None), row
        begin.record()
        try:
            return run(*arguments)
        finally:
            end.record()
            self._thread.row = caller
            with self._lock:
                self._pending.append((row, caller, begin, end))
                if not asynchronous or len(self._pending) > _PENDING:
                    self._resolve()

    def planned(
        self,
        operator: Operator[..., Any],
        implementation: str,
        refusals: tuple[tuple[str, str], ...],
        arguments: tuple[Any, ...],
    ) -> None:
        """Count a call that was only traced."""
        with self._lock:
            self._count(operator, implementation, refusals, arguments)

    @contextmanager
    def journal(self) -> Iterator[list[Row]]:
        """The calls counted inside, each as a row of one call, in the order in which they begin."""
        calls: list[Row] = []
        self._journal = calls
        try:
            yield calls
        finally:
            self._journal = None

    def follow(self, replayed: Callable[[], Iterable[Row]]) -> None:
        """Count, whenever the rows are read, the calls that were replayed since: as rows to be added."""
        self._followed.append(replayed)

    def _count(
        self,
        operator: Operator[..., Any],
        implementation: str,
        refusals: tuple[tuple[str, str], ...],
        arguments: tuple[Any, ...],
    ) -> Row:
        site = self._site()
        row = self._rows.setdefault((operator.name, implementation, site), Row(operator.name, implementation, site))
        row.refusals = refusals
        cost = operator.cost(*operator.bind(arguments).values())
        row.calls += 1
        row.flops += cost.flops
        row.bytes += cost.bytes
        if self._journal is not None:
            self._journal.append(replace(row, calls=1, seconds=0.0, flops=cost.flops, bytes=cost.bytes))
        return row

    def _resolve(self) -> None:
        for row, caller, begin, end in self._pending:
            seconds = end.seconds_since(begin)
            row.seconds += seconds
            if caller is not None:
                caller.seconds -= seconds
        self._pending.clear()
