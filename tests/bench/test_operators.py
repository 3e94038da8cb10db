"""Operators on a clock of our own: what a call takes, who serves it, what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from bench.clocks import Clock
from deepport import backend, ops
from deepport.bench.grid import Work
from deepport.bench.limits import Limits
from deepport.bench.operators import CALLED, Place, measure
from deepport.bench.peak import MEMORY
from deepport.bench.timing import Stopwatch
from deepport.conformance.grids.gradients import backward
from deepport.graph import capturing
from deepport.kernel import Kernel
from deepport.ops.moe import swiglu_arguments
from deepport.policy import REFERENCE
from deepport.runtime import HostRuntime

SECONDS = 0.5


def build(g: Generator) -> dict[str, Any]:
    return {"x": torch.ones(1, 16), "w": torch.ones(4, 16), "scale": None, "format": "plain"}


WORK = Work("linear", "mini", 1, "16 to 4", build, torch.bfloat16, streamed=("w", "scale"))
"""Reads 4 x 16 weights and 16 activations, and writes 4, of 4 bytes: 336 bytes, 128 flop."""


@pytest.fixture
def kernel(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """The CPU's only kernel of `linear`: it takes half a second of the test's clock."""
    seen: list[int] = []

    def run(x: Tensor, w: Tensor, scale: Tensor | None = None, format: str = "plain") -> Tensor:
        clock.work(SECONDS)
        seen.append(w.data_ptr())
        return x @ w.T

    found = Kernel("linear", "test", run)
    found.run.__dict__["seen"] = seen
    monkeypatch.setitem(backend.start("cpu").kernels, "linear", [found])
    return found


@pytest.fixture
def place(limits: Limits, stopwatch: Stopwatch) -> Place:
    return Place(torch.device("cpu"), stopwatch, limits, 1000)


def never() -> bool:
    return False


def test_a_figure_is_one_calls(kernel: Kernel, place: Place) -> None:
    """At 10 B/s, 336 bytes take 33.6 s: half a second is beyond all belief, and the figure says so."""
    outcome = measure(WORK, place, 3, never, peers=False)
    figure = outcome.figure
    assert figure is not None
    assert (figure.seconds.median, figure.seconds.n) == (SECONDS, 3)
    assert (figure.bytes, figure.flops, figure.memory) == (336.0, 128.0, "cold")
    assert [s.implementation for s in figure.served] == ["cpu/test"]
    assert (figure.limit, figure.bound) == (MEMORY, 33.6)
    assert figure.share is not None
    assert figure.share.median == pytest.approx(67.2)
    assert "the largest probe of read memory" in outcome.implausible


def test_calls_take_turns_with_copies(kernel: Kernel, place: Place) -> None:
    measure(WORK, place, 8, never, peers=False)
    seen = kernel.run.__dict__["seen"]
    copies = len(set(seen))
    assert copies == 4, "of 256 bytes, together more than a cache's 1000"
    timed = seen[-2 * copies :]
    assert timed == timed[:copies] * 2, "in turn"


def test_the_reference_takes_turns_only_with_a_kernel(kernel: Kernel, place: Place) -> None:
    place = replace(place, stopwatch=Stopwatch(HostRuntime()))
    figure = measure(WORK, place, 2, never, peers=True).figure
    assert figure is not None
    assert [a.peer for a in figure.against] == [REFERENCE]
    assert figure.against[0].seconds.n == 2
    alone = replace(WORK, operator="quantize", streamed=(), build=quantised)
    figure = measure(alone, place, 2, never, peers=True).figure
    assert figure is not None
    assert (figure.against == ()) == (figure.served[0].implementation == REFERENCE)


def quantised(g: Generator) -> dict[str, Any]:
    return {"x": torch.ones(4, 32), "format": "mxfp4", "power_of_two": True}


def test_a_gradient_takes_turns_with_its_reference(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which records, as nothing can in inference mode; its arguments are lists of tensors too."""

    def drawn(g: Generator) -> dict[str, Any]:
        return backward(g, ops.swiglu, swiglu_arguments(g, (4, 8), None, torch.float32))

    work = Work("swiglu_backward", "mini", 4, "8", drawn, torch.float32)
    mine = Kernel("swiglu_backward", "test", lambda grads, output_mask, gate, up, limit: [gate.clone(), up.clone()])
    monkeypatch.setitem(backend.start("cpu").kernels, "swiglu_backward", [mine])
    figure = measure(work, replace(place, stopwatch=Stopwatch(HostRuntime())), 2, never, peers=True).figure
    assert figure is not None
    assert [s.implementation for s in figure.served] == ["cpu/test"]
    assert [a.peer for a in figure.against] == [REFERENCE]


def test_few_tokens_are_replayed(limits: Limits) -> None:
    """A call beside them says what the dispatcher takes."""
    cpu = torch.device("cpu")
    place = Place(cpu, Stopwatch(HostRuntime()), limits, 1000, capturing(cpu))
    figure, many = (measure(replace(WORK, tokens=n), place, 2, never, peers=False).figure for n in (1, 64))
    assert figure is not None and many is not None
    assert (figure.replayed, many.replayed, many.against) == (True, False, ())
    assert [a.peer for a in figure.against] == [CALLED]
    assert figure.seconds.median < figure.against[0].seconds.median


def test_what_streams_nothing_is_warm(kernel: Kernel, place: Place) -> None:
    figure = measure(replace(WORK, streamed=()), place, 2, never, peers=False).figure
    assert figure is not None
    assert figure.memory == "warm"
    assert len(set(kernel.run.__dict__["seen"])) == 1


@pytest.mark.parametrize(("calls", "rounds"), [(2, 0), (3, 1), (5, 2)])
def test_ctrl_c_keeps_whole_rounds(
    kernel: Kernel, place: Place, monkeypatch: pytest.MonkeyPatch, calls: int, rounds: int
) -> None:
    """Three calls come before the first round, two more are made in each."""
    place.limits.probe_all()
    probe = place.limits.probe

    def interrupted(name: str) -> float:
        if len(kernel.run.__dict__["seen"]) > calls:
            raise KeyboardInterrupt
        return probe(name)

    monkeypatch.setattr(place.limits, "probe", interrupted)
    outcome = measure(WORK, place, 9, never, peers=False)
    assert outcome.interrupted
    assert (0 if outcome.figure is None else outcome.figure.seconds.n) == rounds
