"""Results from what the worker processes answered."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from deepport.conformance.result import CaseKey, Evidence, Gate, Result, Status, Yardstick
from deepport.gap import Gap


@dataclass(frozen=True)
class Subject:
    """Who answered which case, and where."""

    backend: str
    operator: str
    key: CaseKey
    implementation: str
    serving: bool
    evidence: Evidence

    @property
    def id(self) -> str:
        """Short and stable: the same in every run of this suite's version."""
        parts = (self.backend, self.operator, self.key.grid, self.key.variant, self.key.label, self.implementation)
        return hashlib.sha256("|".join((*parts, str(self.key.seed))).encode()).hexdigest()[:10]


@dataclass(frozen=True)
class Answers:
    """What the device's worker and the judge said of a subject."""

    facts: dict[str, Any] = field(default_factory=dict)
    gates: tuple[Gate, ...] = ()
    nulls: dict[str, Any] = field(default_factory=dict)
    yardstick: Yardstick | None = None


def result(subject: Subject, answers: Answers) -> Result:
    """Pass where gates ran and none failed."""
    failed = next((g for g in answers.gates if g.status == "fail"), None)
    status: Status = "fail" if failed else "pass" if answers.gates else "error"
    return _result(subject, answers, status, described(failed) if failed else "" if answers.gates else "no gate ran")


def unanswered(subject: Subject, status: Status, reason: str, answers: Answers | None = None) -> Result:
    """A case that did not come to be judged."""
    return _result(subject, answers or Answers(), status, reason)


def _result(subject: Subject, answers: Answers, status: Status, reason: str) -> Result:
    facts = {"dtype": "", "kernel_hash": "", "spec_hash": ""} | answers.facts
    return Result(
        id=subject.id,
        operator=subject.operator,
        case=subject.key,
        implementation=subject.implementation,
        serving=subject.serving,
        status=status,
        evidence=subject.evidence,
        reason=reason,
        gates=answers.gates,
        nulls=answers.nulls,
        yardstick=answers.yardstick,
        command=f"deepport repro {subject.id}",
        **facts,
    )


def described(gate: Gate) -> str:
    """A failed gate in one line."""
    measured = (
        f": {gate.value:.3g}, bound {gate.bound:.3g}" if gate.value is not None and gate.bound is not None else ""
    )
    return f"{gate.gate} {gate.metric}{measured}" + (f"; {gate.detail}" if gate.detail else "")


def gapped(found: Result, gaps: Sequence[Gap], today: date) -> Result:
    """The result in the light of the backend's gaps: excused, closed without its mark being removed, or past its date."""
    gap = next((g for g in gaps if g.covers(found.operator, found.case.label, found.implementation)), None)
    if gap is None or found.status == "not_run":
        return found
    if found.status == "pass":
        reason = f"the gap is closed, and its declaration has to go ({gap})"
        return found.model_copy(update={"status": "fail", "reason": reason, "link": gap.link})
    if gap.expired(today):
        reason = f"the gap was granted until {gap.expires} ({gap.kind}: {gap.reason}); {found.reason}"
        return found.model_copy(update={"reason": reason, "link": gap.link})
    return found.model_copy(update={"status": "gap", "reason": f"{gap}; {found.reason}", "link": gap.link})
