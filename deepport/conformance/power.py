"""The proof that the suite can fail: deliberately wrong implementations, run until a gate sees them.

A mutant goes the way of a kernel, on the CPU: `execute`, then `judge`. It is killed by the first gate that fails on any case. One
that is right in another way (`Mutant.equivalent`) must pass every case: a gate that fails it is a false alarm.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from deepport.conformance import variants
from deepport.conformance.execute import Execution, Far, Implementation, execute
from deepport.conformance.judge import judge
from deepport.conformance.mutants import of
from deepport.conformance.mutants.mutant import Mutant
from deepport.conformance.oracle import Truth, truth
from deepport.conformance.result import Gate, MutantResult
from deepport.conformance.trial import drawn
from deepport.op import Operator, operators
from deepport.spec import Case

CPU = torch.device("cpu")
_KEPT = 1 << 26
"""Bytes of truths that are kept for an operator's other mutants."""


def mutants_for(names: Iterable[str]) -> tuple[Mutant, ...]:
    """The mutants of these operators."""
    return tuple(m for name in names for m in of(name))


def mutant(operator: str, name: str) -> Mutant:
    """A mutant by name; ValueError where there is none."""
    for found in of(operator):
        if found.name == name:
            return found
    raise ValueError(f"{operator} has no mutant {name!r}; there are: {', '.join(m.name for m in of(operator))}")


def run_mutant(subject: Mutant, cases: Iterable[Case]) -> MutantResult:
    """Whether a gate sees a mutant on one of these cases, of which the slow ones come last, and are spared one that is right."""
    tried, skipped = 0, ""
    for case in sorted((c for c in cases if not (subject.equivalent and _slowness(c))), key=_slowness):
        try:
            failed = next((g for g in _gates(subject, case) if g.status == "fail"), None)
        except variants.NotHere as error:
            skipped = f"{case.label}: {error}"
            continue
        except Exception as error:  # of the mutant itself, which is a fault of this suite unless it is meant
            told = f"{case.label}: it raised {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            by = told if subject.raises else ""
            return _result(subject, "killed" if by else "error", tried + 1, by=by, reason="" if by else told)
        tried += 1
        if failed is not None:
            return _seen(subject, failed, case, tried)
    if subject.equivalent:
        return _result(subject, "equivalent", tried, reason=subject.equivalent)
    return _result(subject, "not_run" if skipped or not tried else "survived", tried, reason=skipped)


def _slowness(case: Case) -> int:
    """Small shapes, then those of the published models, then far memory."""
    return 2 if case.variant == "far" else int(case.grid not in ("operator", "special", "generated", "gradients"))


def _seen(subject: Mutant, failed: Gate, case: Case, tried: int) -> MutantResult:
    by = f"{failed.gate} {failed.metric}, {case.grid} {case.label} {case.variant}".rstrip()
    if subject.equivalent:
        return _result(
            subject, "error", tried, reason=f"it is right ({subject.equivalent}), but {by} fails it: {failed.detail}"
        )
    return _result(subject, "killed", tried, by=by)


def _result(subject: Mutant, status: Any, tried: int, *, by: str = "", reason: str = "") -> MutantResult:
    return MutantResult(
        name=subject.name, operator=subject.operator, fault=subject.fault, status=status, by=by, tried=tried, reason=reason
    )  # fmt: skip


def _gates(subject: Mutant, case: Case) -> Iterator[Gate]:
    """G1 on what it did, then the gates on its numbers."""
    operator = operators[subject.operator]
    implementation = Implementation(operator, f"mutant {subject.name}", subject.run, False, CPU, None)
    arguments = drawn(operator, case)  # its own: it may write to them
    try:
        done = _executed(implementation, case, arguments)
    except variants.NotHere:
        raise
    except Exception as error:
        yield _poisoned(subject, operator, case, error)
        return
    yield from done.gates
    if done.outputs is not None:
        yield from judge(operator, drawn(operator, case), done.outputs, _truths.of(operator, case))


def _executed(subject: Implementation, case: Case, arguments: dict[str, Any]) -> Execution:
    if case.variant == "far":
        return execute(subject, arguments, far=Far(*variants.far(subject.operator.name, arguments, CPU)))
    earlier = drawn(subject.operator, case, seed=1) if _slowness(case) == 0 and not case.raises else None
    return execute(subject, arguments, strided=case.variant == "strided", raises=case.raises, earlier=earlier)


def _poisoned(subject: Mutant, operator: Operator[..., Any], case: Case, error: Exception) -> Gate:
    """What raises only where padding is poisoned has read it; a mutant that raises anyway raises here again."""
    with torch.no_grad():
        subject.run(*drawn(operator, case).values())
    return Gate(gate="G1", metric="reads only what it may", status="fail", detail=f"{type(error).__name__}: {error}")


class _Truths:
    """What is right, for one operator's cases at a time."""

    def __init__(self) -> None:
        self._operator, self._found = "", dict[tuple[str, str, str], Truth]()

    def of(self, operator: Operator[..., Any], case: Case) -> Truth:
        if operator.name != self._operator:
            self._operator, self._found = operator.name, {}
        key = case.grid, case.label, case.variant
        if key in self._found:
            return self._found[key]
        found = truth(operator, drawn(operator, case))
        if found.nbytes + sum(t.nbytes for t in self._found.values()) <= _KEPT:
            self._found[key] = found
        return found


_truths = _Truths()
