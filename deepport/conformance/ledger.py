"""What a run has found so far, and the report that it makes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from deepport import backend
from deepport.conformance.assemble import Subject, gapped, unanswered
from deepport.conformance.crew import CaseTask, Item, Offered, Task, place_of
from deepport.conformance.environment import environment
from deepport.conformance.journal import Journal
from deepport.conformance.result import (
    MODEL,
    REFERENCE,
    CaseKey,
    DeviceInfo,
    KernelInfo,
    MutantResult,
    Profile,
    Report,
    Result,
)
from deepport.gap import Gap
from deepport.op import operators

if TYPE_CHECKING:
    from deepport.conformance.run import Request


class Ledger:
    """Takes what a crew finds, item by item, each into the journal at once."""

    def __init__(self, request: Request, opened: Mapping[str, Any], journal: Journal) -> None:
        """`opened`: what `open_device` answered."""
        self._request, self._hashes, self._journal = request, opened["kernels"], journal
        self._begin = time.perf_counter()
        self._gaps = gaps_of(request.backend)
        self._results: dict[str, Result] = {}
        self._mutants: dict[tuple[str, str], MutantResult] = {}
        self._offers: list[Offered] = []
        self.head = _head(request, opened["environment"])
        journal.begin(self.head)

    def note(self, item: Item) -> Result | MutantResult | None:
        """Take it in; a result comes back in the light of the backend's gaps."""
        if isinstance(item, Offered):
            self._offers.append(item)
            return None
        if isinstance(item, Result):
            item = gapped(item, self._gaps, datetime.now(UTC).date())
            self._results[item.id] = item  # of a case that is run again, the last
        else:
            self._mutants[item.operator, item.name] = item
        self._journal.add(item)
        return item

    @property
    def results(self) -> list[Result]:
        return list(self._results.values())

    def unreached(self, tasks: Iterable[Task]) -> list[CaseTask]:
        """Cases of which nothing was found."""
        done = {_name(r.operator, r.case) for r in self._results.values()}
        return [t for t in tasks if isinstance(t, CaseTask) and _name(t.operator, t.key) not in done]

    def report(self, tasks: Iterable[Task], stopped: str = "", unreached: str = "the run ended before it") -> Report:
        """The whole run. `stopped` says why it is not complete; cases that it did not come to are `not_run`, as `unreached`."""
        left = [unanswered(self._subject(task), "not_run", unreached) for task in self.unreached(tasks)]
        problems = list(self._journal.problems)
        if not stopped:
            problems += _stale(self._gaps, self._request.profile, self.results)
        if not any(r.status in ("pass", "fail", "gap") for r in self.results):
            problems.append("no case was executed")
        mutants = tuple(self._mutants[name] for name in sorted(self._mutants))
        update = {
            "kernels": _kernels(self._offers, self._hashes, self._request.backend),
            "results": tuple(sorted((*self.results, *left), key=_order)),
            "mutants": mutants if self._request.mutants else None,
            "problems": tuple(problems),
            "complete": not stopped,
            "stopped": stopped,
            "seconds": time.perf_counter() - self._begin,
        }
        return self.head.model_copy(update=update).sealed()

    def _subject(self, task: CaseTask) -> Subject:
        """Nobody was asked who takes it."""
        return Subject(self.head.backend, task.operator, task.key, REFERENCE, True, self.head.evidence)


def gaps_of(name: str) -> tuple[Gap, ...]:
    """What the backend declares that it cannot do."""
    return tuple(getattr(backend.get(name), "gaps", ()))


def _head(request: Request, told: Mapping[str, str]) -> Report:
    """The report before anything has run. `told`: the device worker's part of the environment."""
    chosen = backend.get(request.backend)
    facts = chosen.probe().devices[request.index]
    found = environment(request.backend)
    return Report(
        deepport=found["deepport"],
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        backend=request.backend,
        simulates=chosen.simulates,
        device=DeviceInfo(name=facts.name, architecture=facts.architecture, memory=facts.memory, index=request.index),
        evidence=place_of(request.backend, request.index).evidence,
        profile=request.profile,
        operators=request.operators,
        requested=request.command,
        environment={**found, **told},
        kernels=(),
        results=(),
        mutants=() if request.mutants else None,
        complete=False,
        stopped="the run did not end",
    )


def _name(operator: str, key: CaseKey) -> tuple[str, str, str, str]:
    return operator, key.grid, key.variant, key.label


def _order(result: Result) -> tuple[str, str, str, bool, str]:
    return result.operator, result.case.grid, result.case.label, not result.serving, result.implementation


def _stale(gaps: tuple[Gap, ...], profile: Profile, results: list[Result]) -> list[str]:
    """Gaps that no case knows of.

    One for some cases only may be of a grid that bring-up does not run, or of an operator that this run leaves out.
    """
    ran = {r.operator for r in results}
    nobody = [
        gap for gap in gaps if not any(gap.covers(name, gap.case, gap.implementation) for name in (*operators, MODEL))
    ]
    return [f"the gap of {gap.operator} ({gap}) names no operator" for gap in nobody] + [
        f"the gap of {gap.operator} ({gap}) matches no case"
        for gap in gaps
        if (gap.case == "*" or profile != "bring-up")
        and _named(gap, profile) <= ran
        and any(gap.covers(r.operator, gap.case, gap.implementation) for r in results)
        and not any(gap.covers(r.operator, r.case.label, r.implementation) for r in results)
    ]


def _named(gap: Gap, profile: Profile) -> set[str]:
    """The operators of a profile that a gap speaks of."""
    required = {o for o in operators if profile == "training" or not o.endswith("_backward")} | {MODEL}
    return {name for name in required if gap.covers(name, gap.case, gap.implementation)}


def _kernels(offers: list[Offered], hashes: Mapping[str, str], name: str) -> tuple[KernelInfo, ...]:
    found = []
    for key, digest in sorted(hashes.items()):
        operator, _, implementation = key.partition(":")
        mine = [o for o in offers if o.operator == operator]
        refuses: dict[str, int] = {}
        for offered in mine:
            if reason := offered.refusals.get(implementation):
                refuses[reason] = refuses.get(reason, 0) + 1
        takes = sum(implementation in o.implementations for o in mine)
        kernel = implementation.removeprefix(f"{name}/")
        found.append(KernelInfo(operator=operator, name=kernel, hash=digest, takes=takes, refuses=refuses))
    return tuple(found)
