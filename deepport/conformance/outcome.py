"""What pytest shows of a case or a mutant: passed, failed with the gate that failed, expected to fail, or skipped."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from deepport.conformance.assemble import described, gapped
from deepport.conformance.crew import CaseTask, Item, Task
from deepport.conformance.result import MutantResult, Result
from deepport.errors import DeepportError

if TYPE_CHECKING:
    from deepport.conformance.session import SuiteSession


class NotPassed(Exception):
    """What a test says instead of a traceback, which would be of this suite and not of the kernel."""


class TaskItem(pytest.Item):
    """The test of one case, by every implementation that takes it, or of one mutant."""

    def __init__(self, *, task: Task, conformance: SuiteSession, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._task, self._conformance = task, conformance
        self.found: list[Item] = []

    @classmethod
    def of(cls, parent: pytest.Collector, task: Task, conformance: SuiteSession) -> TaskItem:
        """`linear[v4-flash-...]`, `linear[mutant-...]`."""
        what = f"{task.key.grid}-{task.key.label}" if isinstance(task, CaseTask) else f"mutant-{task.name}"
        item: TaskItem = cls.from_parent(parent, name=f"{task.operator}[{what}]", task=task, conformance=conformance)
        return item

    def runtest(self) -> None:
        self.found = self._conformance.perform(self._task)
        today = datetime.now(UTC).date()
        results = [gapped(item, self._conformance.gaps, today) for item in self.found if isinstance(item, Result)]
        failures = [_failure(r, self._conformance.record) for r in results if _fails(r)]
        failures += [_survivor(m) for m in self.found if isinstance(m, MutantResult) and _survives(m)]
        if failures or not self.found:
            raise NotPassed("\n\n".join(failures) or "nothing was found out of it")
        if excused := [r for r in results if r.status == "gap"]:
            pytest.xfail("; ".join(" ".join(filter(None, (r.implementation, r.reason, r.link))) for r in excused))
            raise NotPassed("\n\n".join(_failure(r, self._conformance.record) for r in excused))  # under --runxfail
        if left := [r for r in results if r.status == "not_run" and r.serving]:
            pytest.skip(left[0].reason)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, (NotPassed, DeepportError)):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, self.name


def _fails(result: Result) -> bool:
    return result.status in ("fail", "error", "timeout", "unsupported") or "survived" in result.nulls.values()


def _failure(result: Result, record: Path | None) -> str:
    """Who fails what, at which gates by how much, and how to see it again."""
    nulls = [f"no gate sees a kernel that gives {name}" for name, fate in result.nulls.items() if fate == "survived"]
    gates = [described(g) for g in result.gates if g.status == "fail"]
    told = [result.reason, *(g for g in gates if g not in result.reason), *nulls, result.link]
    where = f" --report {record}" if record else ""
    lines = [f"{result.operator} {result.case.grid} {result.case.label}: {result.implementation}: {result.status}"]
    lines += [f"  {line}" for line in told if line]
    return "\n".join([*lines, f"  again: {result.command}{where}"])


def _survives(mutant: MutantResult) -> bool:
    return mutant.status in ("survived", "error")


def _survivor(mutant: MutantResult) -> str:
    told = f"no gate saw it on {mutant.tried} cases" if mutant.status == "survived" else mutant.reason
    return f"{mutant.operator}: the mutant {mutant.name} ({mutant.fault}) {mutant.status}: {told}"
