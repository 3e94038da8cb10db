"""A pytest session that runs the suite: a test for each case and mutant, in worker processes, and one record of them all.

With pytest-xdist each of its processes has a slot of workers of its own; what they find travels with pytest's reports, and the
controller alone keeps the ledger.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from deepport.command.request import find_device
from deepport.conformance.crew import Crew, Item, Offered, Task, place_of
from deepport.conformance.journal import Journal
from deepport.conformance.ledger import Ledger, gaps_of
from deepport.conformance.outcome import TaskItem
from deepport.conformance.pool import Slot
from deepport.conformance.result import MutantResult, Report, Result
from deepport.conformance.run import Request, check_operators, open_device, tasks_of
from deepport.conformance.verdict import verdict
from deepport.errors import DeepportError
from deepport.report.outputs import write
from deepport.report.words import printable

IMPORT = "from deepport.conformance.suite import *"


def session_of(config: pytest.Config) -> SuiteSession:
    """The session that the options ask for. Raises pytest.UsageError for a device or an operator that is not there."""
    try:
        place = find_device(config.getoption("deepport_device"))
        operators = tuple(config.getoption("deepport_operator"))
        check_operators("--deepport-operator", operators)
    except DeepportError as error:
        raise pytest.UsageError(f"deepport: {error}") from None
    input: dict[str, Any] = getattr(config, "workerinput", {})
    request = Request(
        backend=place.backend,
        index=place.index,
        profile=config.getoption("deepport_profile"),
        operators=operators,
        mutants=config.getoption("deepport_mutants"),
        threads=max(len(os.sched_getaffinity(0)) // int(input.get("workercount", 1)), 1),
        seconds=config.getoption("deepport_timeout"),
        command=" ".join(("pytest", *map(str, config.invocation_params.args))),
    )
    return SuiteSession(config, request)


class SuiteSession:
    """Hooks of a session with `--deepport-device`."""

    def __init__(self, config: pytest.Config, request: Request) -> None:
        self._config, self.request = config, request
        self._slot = Slot(request.threads, request.seconds)
        self._place = place_of(request.backend, request.index)
        self._opened = False
        self._ledger: Ledger | None = None
        self._journal: Journal | None = None
        self._collected_in: Path | None = None
        self._deselected = 0
        self._report: Report | None = None
        self._problems: list[str] = []
        self._remarks: list[str] = []
        self.gaps = gaps_of(request.backend)
        self.record = _record(config)

    @property
    def _is_worker(self) -> bool:
        """One of several processes of pytest-xdist, whose controller keeps the ledger."""
        return hasattr(self._config, "workerinput")

    def collect(self, module: pytest.Module | pytest.Class) -> list[pytest.Item]:
        """A test for each case and mutant."""
        if self._collected_in not in (None, module.path):
            raise module.CollectError(f"the conformance suite is in {self._collected_in} already; once is enough")
        self._collected_in = module.path
        return [TaskItem.of(module, task, self) for task in tasks_of(self.request)]

    def perform(self, task: Task) -> list[Item]:
        """Everything that is found of a task, in worker processes."""
        if not self._opened:
            self._open_slot()
        return list(Crew(self._place, [self._slot], [task]).items())

    def _open_slot(self) -> dict[str, Any]:
        opened = open_device(self._slot, self.request.backend, self.request.index)
        self._opened = True
        return opened

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        if self._config.pluginmanager.hasplugin("dsession"):  # pytest-xdist's controller: it collects nothing
            self._open()
            self._slot.close()

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        self._deselected += sum(isinstance(i, TaskItem) for i in items)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        ours = any(isinstance(i, TaskItem) for i in session.items)
        if ours and not self._is_worker and not self._config.option.collectonly:
            self._open()

    def _open(self) -> None:
        """Open the device before any test, so that one which does not open is one error."""
        journal = Journal(self.record.with_name(f"{self.record.name}.journal") if self.record else None)
        try:
            self._ledger, self._journal = Ledger(self.request, self._open_slot(), journal), journal
        except (DeepportError, OSError) as error:  # no device, or no place for the record
            self._slot.close()
            raise pytest.UsageError(f"deepport: {error}") from None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if isinstance(item, TaskItem) and report.when == "call":
            report.deepport = [_packed(found) for found in item.found]  # type: ignore[attr-defined]
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self._ledger is not None:
            for text in getattr(report, "deepport", ()):
                self._ledger.note(_unpacked(text))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A process of pytest-xdist has ended: how many tests its options left out."""
        self._deselected = max(self._deselected, getattr(node, "workeroutput", {}).get("deepport_deselected", 0))

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        self._slot.close()
        if self._is_worker:
            self._config.workeroutput["deepport_deselected"] = self._deselected  # type: ignore[attr-defined]
        elif not self._config.option.collectonly:
            self._finish(exitstatus)
            if self._problems and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _finish(self, exitstatus: int) -> None:
        """The record, and what fails the session beside its tests."""
        if self._ledger is None or not self._ledger.results:
            self._nothing(exitstatus)
            return
        tasks = tasks_of(self.request)
        left = len(self._ledger.unreached(tasks))
        stopped = f"{left} cases were not run" if left else ""
        if exitstatus == pytest.ExitCode.INTERRUPTED:
            stopped = "interrupted"
        self._report = self._ledger.report(tasks, stopped, "pytest did not run it")
        self._problems += self._report.problems
        self._write(self._report)

    def _nothing(self, exitstatus: int) -> None:
        """No case was executed: a failure, unless it was chosen."""
        if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED, pytest.ExitCode.TESTS_FAILED):
            return
        if self._deselected:
            self._remarks.append("no case was executed: all are deselected")
        elif any(str(a).startswith("--deepport-device") for a in self._config.invocation_params.args):
            self._problems.append(f"no case was executed: no test file here has: {IMPORT}")
        else:  # the device is this repository's default, and other tests were asked for
            self._remarks.append("no case was executed: the suite is not among these tests")

    def _write(self, report: Report) -> None:
        if self.record is None or self._journal is None:
            return
        try:
            write(report, {"json": self.record})
            self._journal.remove()
        except OSError as error:
            self._problems.append(f"the record could not be written: {error}")

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        lines = [*(f"PROBLEM {p}" for p in self._problems), *self._remarks]
        if self._report is not None:
            record = [f"record: {self.record}"] if self.record else []
            lines = [verdict(self._report).headline, *lines, *record]
        if lines:
            terminalreporter.section("deepport conformance")
            for line in lines:
                terminalreporter.line(printable(line))


def _record(config: pytest.Config) -> Path | None:
    """Where the record goes: what --deepport-report says, else pytest's own cache, from which deepport repro can take it."""
    if (given := config.getoption("deepport_report")) is not None:
        return Path(given)
    cache: pytest.Cache | None = getattr(config, "cache", None)
    return None if cache is None else cache.mkdir("deepport") / "report.json"


def _packed(item: Item) -> str:
    """An item as text, for reports that travel between processes."""
    if isinstance(item, Offered):
        return json.dumps({"offered": asdict(item)})
    return json.dumps({"result" if isinstance(item, Result) else "mutant": item.model_dump(mode="json")})


def _unpacked(text: str) -> Item:
    ((kind, content),) = json.loads(text).items()
    if kind == "offered":
        return Offered(content["operator"], tuple(content["implementations"]), content["refusals"])
    return Result.model_validate(content) if kind == "result" else MutantResult.model_validate(content)
