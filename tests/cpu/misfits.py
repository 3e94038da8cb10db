"""Calls whose arguments do not belong together, and what becomes of them; run where a crash ends nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from cpu.guarded import guarded
from hypothesis import strategies as st
from torch import Tensor

from deepport import backend
from deepport.conformance.grids import gradients
from deepport.conformance.judge import judge
from deepport.conformance.oracle import listed, outputs, truth
from deepport.errors import BackendBroken
from deepport.kernel import Kernel
from deepport.op import Operator, operators

HOSTILE = (-(2**31), -7, -1, 0, 1, 3, 1000, 2**31 - 1)
"""Values for one index of a call: what an attacker, or a bug elsewhere, would write."""

RANK = -1
"""Stands for a dimension: another one is put before the first."""


@dataclass(frozen=True)
class Misfit:
    """A call of which one argument has one other size. It has the data that was there, over and over."""

    operator: str
    label: str
    argument: str
    entry: int  # of an argument that is a list
    dim: int
    size: int


def kernels() -> dict[str, Kernel]:
    """The CPU's kernels in C++, by operator."""
    return {k.operator: k for k in backend.get("cpu").kernels() if k.name == "native"}


def misfits(operator: str) -> list[Misfit]:
    """Every one that can be made of the operator's cases."""
    return [
        Misfit(operator, label, name, entry, dim, size)
        for label, arguments in _cases(operator).items()
        for name, value in arguments.items()
        for entry, tensor in enumerate(listed(value))
        if isinstance(tensor, Tensor)
        for dim, size in ((RANK, 1), *_sizes(tensor))
    ]


def _sizes(tensor: Tensor) -> Iterator[tuple[int, int]]:
    for dim, size in enumerate(tensor.shape):
        yield from ((dim, other) for other in sorted({0, 1, size - 1, size + 1, 3 * size + 2}) if 0 <= other != size)


@dataclass(frozen=True)
class Lie:
    """A call in which one number of a tensor of indices is another."""

    operator: str
    label: str
    argument: str
    place: int
    value: int


def indexed(operator: str) -> list[tuple[str, str, int]]:
    """The tensors of indices in the operator's cases: case, argument, how many numbers."""
    return [
        (label, name, value.numel())
        for label, arguments in _cases(operator).items()
        for name, value in arguments.items()
        if isinstance(value, Tensor) and value.dtype in (torch.int32, torch.int64) and value.numel()
    ]


@st.composite
def lies(draw: st.DrawFn, operator: str) -> Lie:
    label, argument, count = draw(st.sampled_from(indexed(operator)))
    return Lie(operator, label, argument, draw(st.integers(0, count - 1)), draw(st.sampled_from(HOSTILE)))


def survive(lie: Lie) -> str:
    """Answer the call or refuse it, both are "": whoever reads or writes past an argument ends the process."""
    operator, drawn = operators[lie.operator], _cases(lie.operator)[lie.label]
    arguments = {name: guarded(value) if isinstance(value, Tensor) else value for name, value in drawn.items()}
    arguments[lie.argument].view(-1)[lie.place] = lie.value
    with torch.no_grad(), suppress(Exception):
        operator(**arguments)
    return ""


def verdict(misfit: Misfit) -> str:
    """What is wrong with how the call was answered, "" if nothing is: it must raise, or give what the reference gives."""
    operator = operators[misfit.operator]
    arguments = _arguments(misfit)
    try:
        expected = outputs(operator, operator.reference, arguments)
    except Exception as error:
        return _raises(operator, arguments, error)
    try:
        got = outputs(operator, operator, arguments)
    except BackendBroken:
        raise
    except Exception:
        return ""
    if [(t.shape, t.dtype) for t in got] != [(t.shape, t.dtype) for t in expected]:
        return "outputs of other shapes than the reference's"
    if not kernels()[misfit.operator].supports(operator.signature(tuple(arguments.values()))):
        return ""  # the reference has served
    failed = [g for g in judge(operator, arguments, got, truth(operator, arguments)) if g.status == "fail"]
    return "; ".join(f"{g.gate} {g.metric}: {g.detail or g.value}" for g in failed)


def _raises(operator: Operator[..., Any], arguments: dict[str, Any], expected: Exception) -> str:
    try:
        outputs(operator, operator, arguments)
    except BackendBroken:
        raise
    except Exception:
        return ""
    return f"nothing was raised, where the reference raises {type(expected).__name__}: {expected}"


@cache
def _cases(operator: str) -> dict[str, dict[str, Any]]:
    declared = operators[operator].cases or gradients.cases(operators[operator])
    return {c.label: c.arguments() for c in declared}


def _arguments(misfit: Misfit) -> dict[str, Any]:
    drawn = _cases(misfit.operator)[misfit.label]
    entries = listed(drawn[misfit.argument])
    entries[misfit.entry] = _resized(entries[misfit.entry], misfit.dim, misfit.size)
    return drawn | {misfit.argument: entries if isinstance(drawn[misfit.argument], list) else entries[0]}


def _resized(tensor: Tensor, dim: int, size: int) -> Tensor:
    if dim == RANK:
        return tensor[None]
    if not tensor.shape[dim]:
        return tensor.new_zeros((*tensor.shape[:dim], size, *tensor.shape[dim + 1 :]))
    return tensor.index_select(dim, torch.arange(size) % tensor.shape[dim])
