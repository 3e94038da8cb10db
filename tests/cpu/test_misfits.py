"""Kernels in C++ trust the sizes they are given: what keeps a wrong one from them is `supports`, by `native.shapes`."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

import pytest
import torch
from cpu.guarded import guarded
from cpu.misfits import Lie, Misfit, indexed, kernels, lies, misfits, survive, verdict
from hypothesis import given, settings
from hypothesis import strategies as st

from deepport import ops
from deepport.fit import shapes
from deepport.kernel import Support, signature_of


class Elsewhere:
    """A process in which a crash is an answer."""

    def __init__(self) -> None:
        self._pool = self._started()

    def call(self, function: Callable[[Any], str], argument: Any) -> str:
        try:
            return self._pool.submit(function, argument).result()
        except BrokenProcessPool:
            self._pool = self._started()
            return "the process died"

    def end(self) -> None:
        self._pool.shutdown()

    def _started(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Elsewhere]:
    process = Elsewhere()
    yield process
    process.end()


@pytest.mark.parametrize("operator", kernels())
def test_a_wrong_shape_raises_or_is_the_reference_s(operator: str, elsewhere: Elsewhere) -> None:
    @settings(max_examples=50, deadline=None)
    @given(st.sampled_from(misfits(operator)))
    def holds(misfit: Misfit) -> None:
        assert not elsewhere.call(verdict, misfit)

    holds()


@pytest.mark.parametrize("operator", [o for o in kernels() if indexed(o)])
def test_indices_that_lie_reach_nothing_outside(operator: str, elsewhere: Elsewhere) -> None:
    @settings(max_examples=100, deadline=None)
    @given(lies(operator))
    def holds(lie: Lie) -> None:
        assert not elsewhere.call(survive, lie)

    holds()


def reads_past(size: int) -> str:
    """What `guarded` is for: C code that trusts a size."""
    tensor = guarded(torch.zeros(3))
    return ctypes.string_at(tensor.data_ptr(), size).hex()


def test_a_read_past_the_end_is_seen(elsewhere: Elsewhere) -> None:
    assert elsewhere.call(reads_past, 12) == "00" * 12
    assert elsewhere.call(reads_past, 13) == "the process died"


def test_what_does_not_belong_together_raises_as_the_reference_does() -> None:
    with pytest.raises(RuntimeError, match=r"size of tensor a \(4\) must match"):
        ops.rms_norm(torch.ones(2, 3), torch.ones(4))


def asked(wanted: dict[str, str], **arguments: object) -> Support:
    given = {n: torch.empty(a) if isinstance(a, tuple) else a for n, a in arguments.items()}
    return shapes(signature_of("any", given), **wanted)


@pytest.mark.parametrize(
    ("wanted", "arguments"),
    [
        ({"x": "... D", "w": "D"}, {"x": (3,), "w": (3,)}),
        ({"x": "... D", "w": "D"}, {"x": (5, 2, 3), "w": (3,)}),
        ({"x": "... D", "w": "D"}, {"x": (5, 2, 3), "w": None}),
        ({"x": "...", "w": "..."}, {"x": (5, 2), "w": (5, 2)}),
        ({"x": "T ... D", "w": "T D"}, {"x": (5, 7, 8, 2), "w": (5, 2)}),
        ({"x": "T n", "w": "(2+n)*n 3"}, {"x": (5, 4), "w": (24, 3)}),
        ({"x": "T k"}, {"x": (5, 4), "k": 4}),
    ],
)
def test_shapes_that_belong_together(wanted: dict[str, str], arguments: dict[str, object]) -> None:
    assert asked(wanted, **arguments)


@pytest.mark.parametrize(
    ("wanted", "arguments", "reason"),
    [
        ({"x": "... D", "w": "D"}, {"x": (2, 3), "w": (4,)}, "w is [4], not [D], where D is 3"),
        ({"x": "... D", "w": "D"}, {"x": (2, 3), "w": (1, 3)}, "w is [1, 3], not [D]"),
        ({"x": "... D"}, {"x": ()}, "x is [], not [..., D]"),
        ({"x": "T ... D D"}, {"x": (3, 3)}, "x is [3, 3], not [T, ..., D, D]"),
        ({"x": "...", "w": "..."}, {"x": (2, 3), "w": (3, 2)}, "w is [3, 2], not [...], where ... is [2, 3]"),
        ({"x": "T n", "w": "(2+n)*n"}, {"x": (5, 4), "w": (20,)}, "w is [20], not [(2+n)*n], where (2+n)*n is 24"),
        ({"x": "T k"}, {"x": (5, 4), "k": 3}, "x is [5, 4], not [T, k], where k is 3"),
        ({"x": "3"}, {"x": (5,)}, "x is [5], not [3]"),
    ],
)
def test_shapes_that_do_not(wanted: dict[str, str], arguments: dict[str, object], reason: str) -> None:
    assert asked(wanted, **arguments) == Support(False, "shape", reason)
