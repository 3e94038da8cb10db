"""What a terminal shows while a conformance run goes on: a bar with the time left, and the operators that are under way."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from deepport.conformance.result import MutantResult, Result
from deepport.report.words import printable

_ROWS = 12
"""Operators shown at once: those with failures first, then the latest."""


class Watch:
    """A listener of `deepport.conformance.run`, on a terminal."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
        )  # fmt: skip
        self._tallies: dict[str, Counter[str]] = {}
        self._cases: TaskID | None = None
        self._mutants: TaskID | None = None

    def begun(self, cases: int, mutants: int) -> None:
        self._cases = self._bars.add_task("cases", total=cases)
        if mutants:
            self._mutants = self._bars.add_task("mutants", total=mutants)
        self._show()

    def found(self, item: Result | MutantResult) -> None:
        if isinstance(item, MutantResult):
            if self._mutants is not None:
                self._bars.advance(self._mutants)
        else:
            tally = self._tallies.pop(item.operator, Counter())
            tally["kernel" if item.by_kernel else "reference"] += 1
            tally[item.status] += 1
            self._tallies[item.operator] = tally  # the latest is last
            if item.serving and self._cases is not None:
                self._bars.advance(self._cases)
        self._show()

    def _show(self) -> None:
        self._live.update(Group(self._bars, self._table()))

    def _table(self) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for name in ("operator", "passed", "not passed", "by kernels", "by references"):
            table.add_column(name, justify="left" if name == "operator" else "right")
        latest = list(reversed(self._tallies.items()))
        chosen = sorted(latest, key=lambda pair: _wrong(pair[1]) == 0)[:_ROWS]
        for name, tally in chosen:
            wrong = _wrong(tally)
            style = "red" if wrong else ""
            counts = (tally["pass"], wrong, tally["kernel"], tally["reference"])
            table.add_row(Text(printable(name), style), *(Text(str(n), style) for n in counts))
        return table


def _wrong(tally: Counter[str]) -> int:
    return sum(tally[s] for s in ("fail", "error", "timeout", "unsupported", "gap", "not_run"))


class Lines:
    """The same where nobody watches: a line on stderr when an operator has its first failure, and one every so many cases."""

    _EVERY = 250

    def __init__(self) -> None:
        self._done, self._total = 0, 0
        self._failed: set[str] = set()

    def begun(self, cases: int, mutants: int) -> None:
        self._total = cases + mutants
        sys.stderr.write(f"{cases} cases" + (f", {mutants} mutants" if mutants else "") + "\n")

    def found(self, item: Result | MutantResult) -> None:
        self._done += isinstance(item, MutantResult) or item.serving
        if isinstance(item, Result) and item.status != "pass" and item.operator not in self._failed:
            self._failed.add(item.operator)
            sys.stderr.write(f"{item.operator}: {item.status}: {printable(item.reason, 300)}\n")
        elif self._done % self._EVERY == 0:
            sys.stderr.write(f"{self._done} of {self._total}\n")


@contextmanager
def watching() -> Iterator[Watch | Lines]:
    """A listener for stderr, be it a terminal or a file."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    with Live(console=Console(stderr=True), transient=True, refresh_per_second=8) as live:
        yield Watch(live)
