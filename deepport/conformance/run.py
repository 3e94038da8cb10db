"""A conformance run: the cases of a profile on a device, and a report that survives what it reports on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from deepport import ops
from deepport.conformance import grids, model
from deepport.conformance.crew import CaseTask, Crew, MutantTask, Task, place_of
from deepport.conformance.journal import Journal
from deepport.conformance.ledger import Ledger
from deepport.conformance.pool import Died, Slot
from deepport.conformance.result import MODEL, MutantResult, Profile, Report, Result
from deepport.errors import BackendBroken, BackendUnavailable, BadInput
from deepport.op import Operator, operators


@dataclass(frozen=True)
class Request:
    """What a run is asked for.

    Attributes:
        operators: only these; empty for all that the profile has.
        jobs: cases at a time, each with a device worker and a judge.
        threads: of each device worker, on the CPU.
        seconds: that a case may take before its process is ended.
        command: the command line, for the report.
    """

    backend: str
    index: int = 0
    profile: Profile = "inference"
    operators: tuple[str, ...] = ()
    mutants: bool = False
    jobs: int = 1
    threads: int = 1
    seconds: float = 60.0
    command: str = ""


class Listener(Protocol):
    """Who wants to know how a run goes."""

    def begun(self, cases: int, mutants: int) -> None: ...

    def found(self, item: Result | MutantResult) -> None: ...


def run(request: Request, listener: Listener, journal: Journal) -> Report:
    """Run every case of the profile, and the mutants where they are asked for.

    Ctrl-C ends it early: what did not run says so, and the report is whole. Raises BackendUnavailable or BackendBroken where the
    device does not open.
    """
    slots = [Slot(request.threads, request.seconds) for _ in range(request.jobs)]
    stopped = ""
    try:
        ledger = Ledger(request, open_device(slots[0], request.backend, request.index), journal)
        tasks = tasks_of(request)
        cases = sum(isinstance(t, CaseTask) for t in tasks)
        listener.begun(cases, len(tasks) - cases)
        try:
            for item in Crew(place_of(request.backend, request.index), slots, tasks).items():
                if (found := ledger.note(item)) is not None:
                    listener.found(found)
        except KeyboardInterrupt:
            stopped = "interrupted"
    finally:
        for slot in slots:
            slot.close()
    return ledger.report(tasks, stopped)


def open_device(slot: Slot, name: str, index: int) -> dict[str, Any]:
    """Open a device in a worker: hashes of its kernels and facts of its environment. BackendUnavailable, BackendBroken."""
    try:
        answer = slot.device.open({"do": "hello", "backend": name, "index": index})
    except Died as death:
        raise BackendBroken(f"{name}: the device could not be opened: {death}") from None
    if answer.get("exit_code") == BackendUnavailable.exit_code:
        raise BackendUnavailable(answer["error"])
    if "error" in answer:
        text = (
            answer["error"] if "exit_code" in answer else f"{name}: the device could not be opened: {answer['error']}"
        )
        raise BackendBroken(text)
    return answer


def operators_of(profile: Profile, chosen: tuple[str, ...] = ()) -> list[Operator[..., Any]]:
    """The operators that a profile requires: forward ones, and for training those of gradients."""
    forward = [operators[name] for name in ops.__all__]
    backward = [o.backward for o in forward if o.backward] if profile == "training" else []
    return [o for o in (*forward, *backward) if not chosen or o.name in chosen]


def check_operators(option: str, names: Iterable[str]) -> None:
    """BadInput for a name that is no operator's, given by this option."""
    known = [*(o.name for o in operators_of("training")), MODEL]
    if unknown := [name for name in names if name not in known]:
        raise BadInput(f"{option}: no operator is called {unknown[0]!r}; there are: {', '.join(known)}")


def tasks_of(request: Request) -> list[Task]:
    """Cases in the operators' order, whole models, then mutants."""
    chosen = operators_of(request.profile, request.operators)
    cases: list[Task] = [CaseTask(o.name, grids.key(c)) for o in chosen for c in grids.cases(o, request.profile)]
    if not request.operators or MODEL in request.operators:
        cases += [CaseTask(MODEL, c.key) for c in model.cases(request.profile)]
    return cases + (list(_mutant_tasks(request, chosen)) if request.mutants else [])


def _mutant_tasks(request: Request, chosen: list[Operator[..., Any]]) -> Iterator[Task]:
    """Mutants meet at least the cases of inference: bring-up asks whether anything works, and not how exactly."""
    from deepport.conformance import power

    profile: Profile = "inference" if request.profile == "bring-up" else request.profile
    for mutant in power.mutants_for(tuple(o.name for o in chosen)):
        yield MutantTask(mutant.operator, mutant.name, mutant.fault, profile)
