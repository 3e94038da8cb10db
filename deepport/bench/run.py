"""A whole run: what was asked for, as far as time allows, and what came of it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import torch

from deepport import backend
from deepport.bench import grid, machine, operators
from deepport.bench.contest import Outcome
from deepport.bench.grid import Work
from deepport.bench.limits import Limits
from deepport.bench.peak import Peak, torch_peaks
from deepport.bench.result import Figure, Peer, Report
from deepport.bench.timing import Budget, Stopwatch
from deepport.bench.wholes import Asked, Wholes
from deepport.conformance.run import check_operators
from deepport.graph import capturing
from deepport.runtime import current


@dataclass(frozen=True)
class Request:
    """What to measure.

    Attributes:
        backend, index, device: where; `device` is its name for people.
        operators: all works of these operators; of none, those that represent each; None for no operators at all.
        model: a whole model's figures, None for none.
        dtype: of activations and plain weights.
        reference: kernels take turns with the references that they stand for.
        rounds: of each figure, or fewer where time is short.
        seconds: for all measurements; loading is not counted.
        warm: what streams its weights is timed a second time, with the same ones again and again.
    """

    backend: str
    index: int
    device: str
    operators: tuple[str, ...] | None
    model: Asked | None
    dtype: torch.dtype
    reference: bool
    rounds: int
    seconds: float
    command: str = ""
    warm: bool = False

    def works(self) -> list[Work]:
        """Raises BadInput for an operator that does not exist."""
        if self.operators is None:
            return []
        check_operators("--operator", self.operators)
        works = grid.works(self.dtype)
        found = [w for w in works if w.operator in self.operators] if self.operators else [w for w in works if w.brief]
        return [timed for w in found for timed in ((w, warmed(w)) if self.warm and w.streamed else (w,))]


def warmed(work: Work) -> Work:
    """The same call with what it streams left where it is: in a cache, if one holds it."""
    return replace(work, label=f"{work.label}, warm", streamed=(), vary=None, row=0)


class Listener(Protocol):
    """Whom a run tells what it does."""

    def begun(self, figures: int) -> None: ...

    def doing(self, what: str) -> None: ...

    def found(self, figure: Figure | None) -> None:
        """A figure is done, or left out."""


@dataclass
class Found:
    """What a run has so far."""

    figures: list[Figure] = field(default_factory=list)
    peers: list[Peer] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    implausible: list[str] = field(default_factory=list)
    stopped: str = ""

    def take(self, name: str, outcome: Outcome) -> None:
        if outcome.figure is not None:
            self.figures.append(outcome.figure)
        elif not outcome.interrupted:
            self.left_out.append(f"{name}: no round was whole")
        if outcome.implausible:
            self.implausible.append(f"{name}: {outcome.implausible}")
        if outcome.interrupted:
            raise KeyboardInterrupt


def run(request: Request, listener: Listener) -> Report:
    """Measure. Ctrl-C ends it, and keeps what was measured."""
    begin, found = time.monotonic(), Found()
    works = request.works()
    started = backend.start(request.backend)
    device = current(started.device_type, request.index)
    beyond = machine.beyond(machine.caches(), device.type)
    stopwatch = Stopwatch(started.runtime)
    limits = Limits(peaks(request.backend, device, beyond), stopwatch)
    place = operators.Place(device, stopwatch, limits, beyond, capturing(device))
    with keeping(found):
        wholes = None if request.model is None else Wholes(request.model, request.rounds, limits, stopwatch, found)
        listener.begun(len(works) + (0 if wholes is None else wholes.count))
        listener.doing("the limits of this device")
        limits.probe_all()
        share = len(works) / max(len(works) + (2 * wholes.count if wholes else 0), 1)
        _operators(request, works, place, Budget(request.seconds * share), listener, found)
        if wholes is not None:
            with tempfile.TemporaryDirectory(prefix="deepport-bench-") as folder, ExitStack() as stack:
                wholes.run(Path(folder), stack, request.seconds * (1 - share), listener)
    return _report(request, started, limits, found, time.monotonic() - begin)


def peaks(name: str, device: torch.device, beyond: int) -> Sequence[Peak]:
    """What a backend offers to be probed, else what torch can."""
    own = getattr(backend.get(name), "peaks", None)
    return torch_peaks(device, beyond) if own is None else tuple(own(beyond))


@contextmanager
def keeping(found: Found) -> Iterator[None]:
    """Ctrl-C inside ends the run, not the program."""
    try:
        yield
    except KeyboardInterrupt:
        found.stopped = "interrupted"


def _operators(
    request: Request, works: list[Work], place: operators.Place, budget: Budget, listener: Listener, found: Found
) -> None:
    for i, work in enumerate(works):
        name = f"{work.operator} {work.model} {work.tokens} tokens, {work.label}, {work.format}"
        listener.doing(name)
        if budget.left <= 0:
            found.left_out.append(f"{name}: no time was left; --seconds gives more")
            listener.found(None)
            continue
        over: Callable[[], bool] = budget.part(len(works) - i)
        before = len(found.figures)
        found.take(name, operators.measure(work, place, request.rounds, over, request.reference))
        listener.found(found.figures[-1] if len(found.figures) > before else None)


def _report(request: Request, started: backend.Started, limits: Limits, found: Found, seconds: float) -> Report:
    return Report(
        deepport=version("deepport"), commit=machine.commit(), created=datetime.now(UTC).isoformat(timespec="seconds"),
        requested=request.command, backend=request.backend, machine=machine.machine(started, request.device),
        limits=limits.found(), figures=tuple(found.figures), peers=tuple(found.peers),
        left_out=tuple(found.left_out), implausible=tuple(found.implausible), stopped=found.stopped, seconds=seconds,
    )  # fmt: skip
