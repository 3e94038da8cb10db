"""A plan beside the same model really run on this machine: memory, and each step's time by the probes of the same minute."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch

from deepport.bench.model import SETTLING, Ours, drawn
from deepport.bench.quantised import Formats, quantise
from deepport.bench.timing import Stopwatch
from deepport.chips.probed import Prober
from deepport.chips.profile import Profile
from deepport.planning.estimate import Load, Step
from deepport.planning.plan import Asked, Plan, make, precision
from deepport.record import Record
from deepport.runtime import giving_back
from deepport_model import Model
from deepport_model.loading import load as loaded

NAME = "here"
TOLERATED = 0.03
"""The part by which the memory that was measured may differ from what was planned."""

DECODED = 16
"""Tokens decoded in a round."""


@dataclass(frozen=True)
class Measured:
    """What a run took: bytes at the peak beyond those held before it, the fastest prompt and token, operators' seconds."""

    memory: int
    prompt: int
    prefill: float
    decode: float
    operators: dict[str, float]


@dataclass(frozen=True)
class Line:
    """One thing planned and measured. `bound`: the plan is a bound from below, else what is expected within `TOLERATED`."""

    what: str
    planned: float
    measured: float
    bound: bool = True

    @property
    def ratio(self) -> float:
        return self.measured / self.planned if self.planned else float("inf")

    @property
    def holds(self) -> bool:
        return self.ratio >= 1 if self.bound else abs(self.ratio - 1) <= TOLERATED

    @property
    def verdict(self) -> str:
        """In words."""
        if self.bound:
            return (
                "not below the bound" if self.holds else "below the bound: a probe was disturbed, or the plan is wrong"
            )
        within = f"within {TOLERATED:.0%}"
        return within if self.holds else f"not {within}: something else took memory meanwhile, or the plan is wrong"


@dataclass(frozen=True)
class Checked:
    """A plan by this machine's own profile, and what was measured beside it."""

    plan: Plan
    lines: list[Line]
    operators: list[Line]

    @property
    def holds(self) -> bool:
        return all(line.holds for line in self.lines)


@dataclass(frozen=True)
class Request:
    """A model, and what it is to read in steps of `chunk`, on a device of this machine, called `title`."""

    model: str
    backend: str
    index: int
    title: str
    dtype: str | None
    format: str
    context: int
    chunk: int
    rounds: int = 5

    @property
    def prompt(self) -> int:
        """Whole steps of the context, the tokens to be decoded left out."""
        steps = max((self.context - DECODED - SETTLING) // self.chunk, 1)
        return steps * min(self.chunk, self.context)

    @property
    def capacity(self) -> int:
        return self.prompt + DECODED + SETTLING


def check(request: Request) -> Checked:
    """Measure, then plan by what was probed meanwhile."""
    measured, chip = measure(request)
    load = Load(request.capacity, 1, request.chunk, "device")
    plan = make(Asked(request.model, request.dtype, request.format, chip, 1, load))
    return Checked(plan, lines(plan, measured), operators(plan, measured))


def measure(request: Request) -> tuple[Measured, Profile]:
    """Run, with the device's limits probed in turns; the profile has the most that any probe gave."""
    with giving_back():
        _warm(request)
        prober = Prober(request.backend, request.index, request.title)
        runtime = prober.started.runtime
        before = runtime.memory().allocated
        model = loaded(request.model, f"{request.backend}:{request.index}", precision(request.model, request.dtype))
        quantise(model.transformer, Formats.parse(request.format))
        runtime.reset_peak()
        ours = Ours(model.transformer, request.capacity, request.chunk, Stopwatch(runtime))
        found = [_round(request, model, ours)]
        memory = runtime.memory().peak - before
    prober.round()
    for _ in range(request.rounds - 1):
        found.append(_round(request, model, ours))
        prober.round()
    operators = _recorded(request, model, ours)
    fastest = min(p for p, _ in found), min(d for _, d in found)
    return Measured(memory, request.prompt, *fastest, operators), prober.profile(NAME)


def lines(plan: Plan, measured: Measured) -> list[Line]:
    """Memory, the prompt, and a token after it."""
    e = plan.estimate
    steps = measured.prompt / e.prefill.tokens
    return [
        Line("memory", e.needed, measured.memory, bound=False),
        Line(f"prefill of {measured.prompt} tokens", e.prefill.seconds * steps, measured.prefill),
        Line("decode of a token after them", e.decode.seconds, measured.decode),
    ]


def operators(plan: Plan, measured: Measured) -> list[Line]:
    """Of the prompt, by operator, the slowest first. Those that others call from inside are not planned, and left out."""
    least = _by_operator(plan.estimate.prefill)
    steps = measured.prompt / plan.estimate.prefill.tokens
    found = [Line(name, least[name] * steps, seconds) for name, seconds in measured.operators.items() if name in least]
    return sorted(found, key=lambda line: -line.measured)


def _by_operator(step: Step) -> dict[str, float]:
    found: dict[str, float] = defaultdict(float)
    for t in step.timed:
        found[t.call.operator] += t.seconds
    return found


def _warm(request: Request) -> None:
    """Libraries, threads and allocators take their memory with the first model, which is not the one that is measured."""
    model = loaded("tiny", f"{request.backend}:{request.index}", "bfloat16")
    with torch.inference_mode(), model.session():
        model(torch.zeros(1, 4, dtype=torch.int64))


def _round(request: Request, model: Model, ours: Ours) -> tuple[float, float]:
    """Seconds of a prompt, and of the fastest token after it."""
    ids = drawn(model.config.vocab_size, request.capacity)
    with torch.inference_mode(), model.session():
        ours.reset()
        prefill = ours.feed(ids[: request.prompt])
        return prefill, min([ours.feed([id]) for id in ids[request.prompt :]][SETTLING:])


def _recorded(request: Request, model: Model, ours: Ours) -> dict[str, float]:
    """Seconds of each operator over a prompt, without those that it calls from inside."""
    record = Record()
    with torch.inference_mode(), model.session(record=record):
        ours.reset()
        ours.feed(drawn(model.config.vocab_size, request.prompt))
    found: dict[str, float] = defaultdict(float)
    for row in record.totals():
        found[row.operator] += row.seconds
    return dict(found)
