"""What a report amounts to, in numbers and in one sentence that claims no more than ran."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from deepport.conformance.result import EVIDENCE, MODEL, Report, Result, Status

Word = Literal["conforms", "conforms with gaps", "does not conform", "incomplete"]


@dataclass(frozen=True)
class Verdict:
    """The counts of a report, and what follows from them.

    Attributes:
        required, passed: cases of the profile, each answered by the implementation that production would choose.
        by_kernels: of those passed, how many a kernel of the backend answered; the others were references.
        others: results of kernels that would not serve their case, by status. They must pass too.
        statuses: of the required cases.
        null_survivors: null kernels that no gate noticed, as (result id, null kernel).
        mutants, killed, survivors: deliberately wrong implementations; the two counts leave out equivalent ones.
    """

    required: int
    passed: int
    by_kernels: int
    kernels: int
    statuses: dict[Status, int]
    others: dict[Status, int]
    null_survivors: tuple[tuple[str, str], ...]
    mutants: int
    killed: int
    survivors: tuple[str, ...]
    problems: tuple[str, ...]
    complete: bool
    headline: str
    word: Word

    @property
    def ok(self) -> bool:
        return self.word in ("conforms", "conforms with gaps")

    @property
    def kill_rate(self) -> str:
        """`41 of 41 mutants killed`, or that there were none."""
        return f"{self.killed} of {self.mutants} mutants killed" if self.mutants else "no mutants were run"


def verdict(report: Report) -> Verdict:
    """Judge a report. Zero cases, a survivor or an undeclared gap in support does not conform."""
    serving = [r for r in report.results if r.serving]
    statuses, others = _count(serving), _count([r for r in report.results if not r.serving])
    passed = [r for r in serving if r.status == "pass"]
    tried = [m for m in report.mutants or () if m.status != "equivalent"]
    survivors = tuple(f"{m.operator}/{m.name}" for m in tried if m.status != "killed")
    nulls = tuple((r.id, name) for r in report.results for name, fate in r.nulls.items() if fate == "survived")
    word = _word(report, statuses + others, bool(survivors or nulls))
    by_kernels = sum(r.by_kernel for r in passed)
    # A whole model is a case, and no kernel.
    kernels = len({(r.operator, r.implementation) for r in report.results if r.by_kernel and r.case.grid != MODEL})
    return Verdict(
        required=len(serving),
        passed=len(passed),
        by_kernels=by_kernels,
        kernels=kernels,
        statuses=dict(statuses),
        others=dict(others),
        null_survivors=nulls,
        mutants=len(tried),
        killed=len(tried) - len(survivors),
        survivors=survivors,
        problems=report.problems,
        complete=report.complete,
        headline=_headline(report, word, len(serving), len(passed), by_kernels, kernels),
        word=word,
    )


def _count(results: list[Result]) -> Counter[Status]:
    return Counter(r.status for r in results)


def _word(report: Report, statuses: Counter[Status], survivors: bool) -> Word:
    bad = sum(n for status, n in statuses.items() if status not in ("pass", "gap", "not_run"))
    if bad or survivors or report.problems or not report.results:
        return "does not conform"
    if not report.complete or statuses["not_run"]:
        return "incomplete"
    return "conforms with gaps" if statuses["gap"] else "conforms"


def _headline(report: Report, word: Word, required: int, passed: int, by_kernels: int, kernels: int) -> str:
    scope = f" for {', '.join(report.operators)} only" if report.operators else ""
    subject = f"{report.backend} on {report.device.name}"
    if not kernels and by_kernels:
        who = f"{by_kernels} by whole models with its kernels, {passed - by_kernels} by references (plain torch)"
    elif not kernels:
        # Plain torch is what was tested: never say that this backend's kernels conform.
        who = f"as references (plain torch): no kernel of {report.backend} was tested"
    else:
        plural = "s" if kernels > 1 else ""
        who = f"{by_kernels} by {kernels} kernel{plural}, {passed - by_kernels} by references (plain torch)"
    return (
        f"{subject} {word}, profile {report.profile}{scope}: {passed} of {required} required cases pass, {who}; "
        f"{report.evidence}, {EVIDENCE[report.evidence]}"
    )
