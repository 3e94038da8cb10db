"""What every rendering of a report says: grouped, counted and ordered in one place."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from deepport.conformance.result import MODEL, SPY, Gate, MutantResult, Report, Result, Status
from deepport.report.words import count, measured

State = Literal["fails", "unsupported", "not run", "gap", "kernels", "both", "reference"]
"""Of the cases of one operator and dtype: the first of these that is true of any; `both`: kernels and references serve."""

SYMBOLS: dict[State, str] = {
    "fails": "✗",
    "unsupported": "⊘",
    "not run": "…",
    "gap": "△",
    "kernels": "●",
    "both": "◐",
    "reference": "○",
}
MEANINGS: dict[State, str] = {
    "fails": "a case fails, crashes or hangs",
    "unsupported": "a case has no implementation here",
    "not run": "a case was not run",
    "gap": "a case fails, as the backend declares",
    "kernels": "all right, computed by kernels",
    "both": "all right, some by kernels, some by references",
    "reference": "all right, computed by references (plain torch)",
}

_BAD: tuple[Status, ...] = ("fail", "error", "timeout")
_ANSWERED: tuple[Status, ...] = ("pass", "fail", "gap")
_STATES: tuple[tuple[State, tuple[Status, ...]], ...] = (
    ("fails", _BAD),
    ("unsupported", ("unsupported",)),
    ("not run", ("not_run",)),
    ("gap", ("gap",)),
)
UNKNOWN = "dtype unknown"
"""Of a case that did not come to be drawn."""
_DTYPES = ("float64", "float32", "bfloat16", "float16")


_WORDS: dict[State, str] = {
    "fails": "fail",
    "unsupported": "unsupported",
    "not run": "not run",
    "gap": "a gap",
    "kernels": "by kernels",
    "both": "by both",
    "reference": "by reference",
}


@dataclass(frozen=True)
class Cell:
    """One operator and dtype: the state of `number` of its results, of `total`; `kernels` are the names of those that serve."""

    state: State
    number: int
    total: int
    kernels: tuple[str, ...]

    @property
    def text(self) -> str:
        """`12 by kernels`, `1 of 12 fail`: short, and clear without a colour."""
        part = f"{self.number} of {self.total}" if self.number < self.total else f"{self.total}"
        return f"{part} {_WORDS[self.state]}"


@dataclass(frozen=True)
class Matrix:
    dtypes: tuple[str, ...]
    rows: Mapping[str, Mapping[str, Cell]]

    @property
    def states(self) -> tuple[State, ...]:
        """Those that occur, the worst first."""
        found = {cell.state for row in self.rows.values() for cell in row.values()}
        return tuple(s for s in SYMBOLS if s in found)


def matrix(report: Report) -> Matrix:
    """Operators by dtypes."""
    groups: dict[str, dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for result in report.results:
        groups[result.operator][result.dtype or UNKNOWN].append(result)
    dtypes = sorted({d for row in groups.values() for d in row}, key=_rank)
    rows = {o: {d: _cell(groups[o][d]) for d in dtypes if d in groups[o]} for o in sorted(groups)}
    return Matrix(tuple(dtypes), rows)


def _rank(dtype: str) -> tuple[int, str]:
    return (_DTYPES.index(dtype) if dtype in _DTYPES else len(_DTYPES) + (dtype == UNKNOWN), dtype)


def _cell(results: list[Result]) -> Cell:
    serving = [r for r in results if r.serving]
    kernels = tuple(dict.fromkeys(r.implementation for r in serving if r.by_kernel))
    # A kernel that would not serve must be right, too.
    for state, statuses in _STATES:
        if number := sum(r.status in statuses for r in results):
            return Cell(state, number, len(results), kernels)
    by = {r.by_kernel for r in serving}
    return Cell(
        "both" if len(by) > 1 else "kernels" if True in by else "reference", len(serving), len(serving), kernels
    )


def failures(report: Report) -> list[Result]:
    """Results that fail, crash or hang, those that production would meet first."""
    return sorted((r for r in report.results if r.status in _BAD), key=lambda r: (not r.serving, r.operator))


def failing(result: Result) -> Gate | None:
    """The first gate that fails."""
    return next((g for g in result.gates if g.status == "fail"), None)


def why(result: Result) -> tuple[str, ...]:
    """The first gate that fails, and the reason where it says anything else."""
    gate = failing(result)
    told = (measured(gate),) if gate else ()
    again = gate is not None and result.reason.startswith(f"{gate.gate} {gate.metric}")
    return told if again or not result.reason else (*told, result.reason)


def with_status(report: Report, status: Status) -> list[Result]:
    return [r for r in report.results if r.status == status]


@dataclass(frozen=True)
class Group:
    """Results of one operator with one reason."""

    operator: str
    reason: str
    link: str
    results: tuple[Result, ...]

    @property
    def kind(self) -> str:
        """Whose work a gap is; "" where its reason does not say."""
        return _KINDS.get(self.reason.partition(":")[0], "")


_GAP = re.compile(r".*? \(until \d{4}-\d\d-\d\d\)")
"""What the backend declares; what follows it is of one case."""

_KINDS = {"notimpl": "ours to do", "notyet": "the vendor's to do", "never": "cannot be"}


def by_reason(results: Iterable[Result]) -> list[Group]:
    """Gaps, or unsupported cases: most have few reasons between them."""
    groups: dict[tuple[str, str, str], list[Result]] = defaultdict(list)
    for r in results:
        declared = _GAP.match(r.reason) if r.status == "gap" else None
        groups[r.operator, declared[0] if declared else r.reason, r.link].append(r)
    return [Group(*key, tuple(found)) for key, found in groups.items()]


def worst(report: Report, most: int = 12) -> list[tuple[Result, Gate]]:
    """The results that use up most of a bound, with the gate."""
    found = [(r, r.worst) for r in report.results]
    measured = [(r, g) for r, g in found if g is not None and g.margin]
    return sorted(measured, key=lambda pair: -(pair[1].margin or 0.0))[:most]


def slowest(report: Report, most: int = 12) -> list[Result]:
    return sorted((r for r in report.results if r.seconds > 0), key=lambda r: -r.seconds)[:most]


@dataclass(frozen=True)
class Power:
    """What shows that the suite could have failed.

    Attributes:
        by_gate: mutants killed, by the gate that saw them first; `raised` where the call raised, `crash` where its process ended.
        nulls: null kernels by name, each with its fates.
        ran: of each kernel, as (operator, backend/kernel), the cases that it answered.
        watched: how often the spy saw production call what the result names (`pass`), and how often something else (`fail`).
    """

    by_gate: Mapping[str, int]
    nulls: Mapping[str, Counter[str]]
    ran: Mapping[tuple[str, str], int]
    watched: Counter[str]

    @property
    def null_fates(self) -> Counter[str]:
        return sum(self.nulls.values(), Counter())


def power(report: Report) -> Power:
    nulls: dict[str, Counter[str]] = defaultdict(Counter)
    for r in report.results:
        for name, fate in r.nulls.items():
            nulls[name][fate] += 1
    # A whole model is a case, and no kernel.
    answered = [r for r in report.results if r.by_kernel and r.status in _ANSWERED and r.case.grid != MODEL]
    return Power(
        by_gate=dict(sorted(Counter(_gate(m.by) for m in report.mutants or () if m.status == "killed").items())),
        nulls=dict(sorted(nulls.items())),
        ran=dict(sorted(Counter((r.operator, r.implementation) for r in answered).items())),
        watched=Counter(g.status for r in report.results for g in r.gates if g.metric == SPY),
    )


def _gate(by: str) -> str:
    found = re.match(r"G[0-6]\b", by)
    return found[0] if found else "raised" if "it raised" in by else "crash"


def refusals(report: Report) -> list[tuple[int, str, tuple[str, ...]]]:
    """Why kernels do not take cases: how often, the reason, and which kernels say so; the most frequent first."""
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for kernel in report.kernels:
        for reason, n in kernel.refuses.items():
            found[reason].append((n, f"{kernel.operator}: {kernel.name}"))
    rows = [(sum(n for n, _ in by), reason, tuple(k for _, k in by)) for reason, by in found.items()]
    return sorted(rows, key=lambda row: (-row[0], row[1]))


def problems(report: Report) -> list[tuple[str, str]]:
    """What is wrong and belongs to no single result, as (subject, what): it fails the run, or leaves it without an answer."""
    nulls = [
        (f"null kernel {n} on {r.operator} {r.id}", _BLIND)
        for r in report.results
        for n, f in r.nulls.items()
        if f == "survived"
    ]
    return [
        *((f"mutant {m.operator}/{m.name}", _fate(m)) for m in report.mutants or () if m.status not in _SETTLED),
        *nulls,
        *(("problem", text) for text in report.problems),
        *([] if report.results else [("run", "no case was run")]),
        *([] if report.complete else [("run", f"is not complete: {report.stopped or 'it does not say why'}")]),
        *([("file", CHANGED)] if report.digest and not report.whole else []),
    ]


CHANGED = "was changed after the run: its digest is not that of its content"
_BLIND = "survived: the gates of this case see nothing wrong with it"
_SETTLED = ("killed", "equivalent")


def _fate(mutant: MutantResult) -> str:
    if mutant.status == "survived":
        return f"survived {count(mutant.tried, 'case')}: {mutant.fault}"
    return f"{'could not be judged' if mutant.status == 'error' else 'was not run'}: {mutant.reason or 'it does not say why'}"
