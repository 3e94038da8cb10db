"""The threads that keep worker processes busy: tasks in, results out, whatever becomes of the processes."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from deepport import backend
from deepport.conformance import wire
from deepport.conformance.assemble import Answers, Subject, result, unanswered
from deepport.conformance.pool import Died, Slot, Worker
from deepport.conformance.result import (
    MODEL,
    REFERENCE,
    CaseKey,
    Evidence,
    Gate,
    MutantResult,
    Profile,
    Result,
    Status,
    Yardstick,
)

_HANGS = 3
"""Cases that an implementation may hang on before the run stops waiting for it."""


@dataclass(frozen=True)
class CaseTask:
    """A case of an operator. `only`: of its implementations just this one; "" for all that take it."""

    operator: str
    key: CaseKey
    only: str = ""


@dataclass(frozen=True)
class MutantTask:
    operator: str
    name: str
    fault: str
    profile: Profile


Task = CaseTask | MutantTask


@dataclass(frozen=True)
class Offered:
    """What the kernels said to one case: implementations that take it, and reasons of those that do not."""

    operator: str
    implementations: tuple[str, ...]
    refusals: dict[str, str]


Item = Result | MutantResult | Offered


@dataclass(frozen=True)
class Place:
    """Where cases run, as workers are told."""

    backend: str
    index: int
    device_type: str
    evidence: Evidence


def place_of(name: str, index: int) -> Place:
    """A device of an installed backend, as a place. BackendUnavailable, BackendBroken."""
    found = backend.get(name)
    simulated = found.simulates or found.probe().simulator
    return Place(name, index, found.device_type, "E4" if simulated else "E5")


class Crew:
    """So many threads as slots, each with a device worker and a judge of its own."""

    def __init__(
        self,
        place: Place,
        slots: Sequence[Slot],
        tasks: Sequence[Task],
        keep: Callable[[list[Tensor]], None] | None = None,
    ) -> None:
        """`keep`: called with the outputs of every case's implementation that has some."""
        self._place, self._slots, self._keep = place, slots, keep
        self._tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
        for task in tasks:
            self._tasks.put(task)
        self._items: queue.SimpleQueue[Item | BaseException | None] = queue.SimpleQueue()
        self._hung: Counter[tuple[str, str]] = Counter()

    def items(self) -> Iterator[Item]:
        """What is found, as it comes; ends when every task is done."""
        threads = [threading.Thread(target=self._work, args=(slot,), daemon=True) for slot in self._slots]
        for thread in threads:
            thread.start()
        working = len(threads)
        while working:
            item = self._items.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                working -= 1
            else:
                yield item

    def _work(self, slot: Slot) -> None:
        try:
            while not slot.device.closed:
                task = self._tasks.get_nowait()
                for item in self._items_of(slot, task):
                    self._items.put(item)
        except queue.Empty:
            pass
        except BaseException as error:  # ours: it must not look like a case's
            self._items.put(error)
        self._items.put(None)

    def _items_of(self, slot: Slot, task: Task) -> Iterator[Item]:
        if isinstance(task, MutantTask):
            return self._mutant(slot, task)
        return self._model(slot, task) if task.operator == MODEL else self._case(slot, task)

    def _case(self, slot: Slot, task: CaseTask) -> Iterator[Item]:
        """Ask who takes the case, then have each of them answer it."""
        asked: wire.Message = {"operator": task.operator, **self._where(task)}
        try:
            offer, _ = _ask(slot.device, {"do": "offer", **asked})
        except _NoAnswer as why:
            yield unanswered(self._subject(task, REFERENCE, True), why.status, why.reason)
            return
        implementations, broken = offer["implementations"], offer["broken"]
        yield Offered(task.operator, tuple(i for i in implementations if i not in broken), offer["refusals"])
        for place, implementation in enumerate(implementations):
            if task.only in ("", implementation):
                subject = self._subject(task, implementation, serving=place == 0)
                if implementation in broken:
                    yield unanswered(subject, "error", broken[implementation], Answers(offer["facts"]))
                else:
                    yield self._answer(slot, asked, subject, offer["facts"])

    def _where(self, task: CaseTask) -> wire.Message:
        return {
            "case": task.key.model_dump(mode="json"),
            "backend": self._place.backend,
            "index": self._place.index,
            "device_type": self._place.device_type,
        }

    def _subject(self, task: CaseTask, implementation: str, serving: bool) -> Subject:
        return Subject(self._place.backend, task.operator, task.key, implementation, serving, self._place.evidence)

    def _answer(self, slot: Slot, asked: wire.Message, subject: Subject, facts: dict[str, Any]) -> Result:
        """The device performs, the judge judges."""
        told = {**asked, "implementation": subject.implementation, "serving": subject.serving}
        answers, who = Answers(facts), (subject.operator, subject.implementation)
        if self._hung[who] >= _HANGS:
            return unanswered(
                subject, "not_run", f"{subject.implementation} gave no answer to {_HANGS} cases before", answers
            )
        try:
            done, frames = _ask(slot.device, {"do": "perform", **told})
            facts = facts | done["facts"]
            answers = Answers(facts, _gates(done))
            if done["judged"]:
                if self._keep is not None:
                    self._keep(wire.unpacked(done["tensors"], frames))
                got = {"input_hash": facts["input_hash"], "tensors": done["tensors"]}
                judged = _judged(slot, {**told, **got}, frames)
                yardstick = Yardstick.model_validate(judged["yardstick"])
                answers = Answers(facts, _gates(done) + _gates(judged), judged["nulls"], yardstick)
        except _NoAnswer as why:
            self._hung[who] += why.status == "timeout"
            by_kernel = subject.implementation != REFERENCE
            # A kernel that said YES and then cannot is broken; a device without an operation of plain torch lacks it.
            status = "error" if by_kernel and why.status == "unsupported" else why.status
            return unanswered(subject, status, f"not judged: {why.reason}" if answers.gates else why.reason, answers)
        return result(subject, answers)

    def _model(self, slot: Slot, task: CaseTask) -> Iterator[Item]:
        """A whole model: the judge decides first, the device follows its decisions, the judge compares."""
        asked, subject, answers = (
            self._where(task),
            self._subject(task, f"{self._place.backend}/kernels", True),
            Answers(),
        )
        try:
            decided, frames = _ask(slot.judge, {"do": "decide", **asked})
            done, frames = _ask(slot.device, {"do": "perform_model", **asked, **decided}, frames)
            answers = Answers(done["facts"])
            subject = self._subject(task, REFERENCE, True) if done["itself"] else subject
            judged, _ = _ask(slot.judge, {**asked, **done, "do": "judge_model"}, frames)
        except _NoAnswer as why:
            yield unanswered(subject, why.status, why.reason, answers)
            return
        yield result(subject, Answers(done["facts"], _gates(judged)))

    def _mutant(self, slot: Slot, task: MutantTask) -> Iterator[Item]:
        asked = {"operator": task.operator, "name": task.name, "profile": task.profile}
        try:
            answer, _ = slot.judge.ask({"do": "mutant", **asked})
        except Died as death:
            # A wrong address may end the process. In a run of a backend that is an `error`, and so it is seen.
            fate: dict[str, Any] = {"status": "killed", "by": str(death)}
        else:
            fate = answer.get("mutant") or {"status": "error", "reason": answer["error"]}
        yield MutantResult.model_validate({"name": task.name, "operator": task.operator, "fault": task.fault} | fate)


def _judged(slot: Slot, told: wire.Message, frames: list[bytes]) -> wire.Message:
    judged, _ = _ask(slot.judge, {"do": "judge", **told}, frames)
    if "other_inputs" in judged:
        given, inputs = _ask(slot.device, {**told, "do": "inputs"})
        judged, _ = _ask(slot.judge, {"do": "judge", **told, "inputs": given["tensors"]}, frames + inputs)
    return judged


def _gates(answer: wire.Message) -> tuple[Gate, ...]:
    return tuple(Gate.model_validate(g) for g in answer["gates"])


class _NoAnswer(Exception):
    """A worker died, or says why it has no answer."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def _ask(worker: Worker, message: wire.Message, frames: Sequence[bytes] = ()) -> tuple[wire.Message, list[bytes]]:
    """A worker's answer. Raises _NoAnswer."""
    try:
        answer, found = worker.ask(message, frames)
    except Died as death:
        raise _NoAnswer("timeout" if death.timeout else "error", str(death)) from None
    if "not_run" in answer:
        raise _NoAnswer("not_run", answer["not_run"])
    if "error" in answer:
        raise _NoAnswer("unsupported" if answer.get("unsupported") else "error", answer["error"])
    return answer, found
