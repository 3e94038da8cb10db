"""What an operator declares beside its reference: its cost, its cases and its tolerance."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cost:
    """What a call must do at least: arithmetic operations, and bytes that are read or written once."""

    flops: float
    bytes: float


Builder = Callable[..., dict[str, Any]]
"""Draws a call's arguments by name, on the CPU: `builder(generator, **parameters)`."""


@dataclass(frozen=True)
class Case:
    """A call that every backend must answer.

    Attributes:
        label: the parameters in one line, unique among an operator's cases of one grid.
        builder, parameters: what draws the arguments, from a seeded generator. Parameters are plain values: a case can be
            written to a file and drawn again from it.
        grid: where the shapes are from (`deepport.conformance.grids`); `operator` for those declared beside the operator.
        variant: what is done to the arguments once they are drawn; "" for nothing.
        note: what was scaled down, and why.
        raises: the exception that a call with these arguments must raise, by name; "" for none.
    """

    label: str
    builder: Builder
    parameters: Mapping[str, Any]
    grid: str = "operator"
    variant: str = ""
    note: str = ""
    raises: str = ""

    def arguments(self, seed: int = 0) -> dict[str, Any]:
        return self.builder(torch.Generator().manual_seed(seed), **self.parameters)


def case(builder: Builder, **parameters: Any) -> Case:
    """The case `builder(generator, **parameters)`, labelled by its parameters."""
    return Case(",".join(f"{n}={_text(v)}" for n, v in parameters.items()), builder, parameters)


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return "x".join(map(_text, value))
    return str(value).removeprefix("torch.")


Cases = Callable[[], Iterable[Case]]


@dataclass(frozen=True)
class Tolerance:
    """How far a kernel's error may exceed the reference's own, both against float64 (design: conformance, gate G2).

    Attributes:
        rms: bound on the ratio of root-mean-square errors, and of mean absolute ones.
        max: bound on the ratio of largest errors.
        order: factor on both for outputs as wide as the accumulator. Narrower ones are rounded once, which hides how a sum was
            ordered; these show it: n terms summed one after another err sqrt(n / 2) roundings, summed by the lanes of a vector a
            fraction of that, and both are right.
        exact: the results are integers or copies, and must be equal bit for bit; the ratios are then unused.
        reason: why these bounds and no others.
    """

    reason: str
    rms: float = 1.5
    max: float = 5.0
    order: float = 8.0
    exact: bool = False


ROUNDED_ONCE = 1.25
"""`rms` of operators that are float32 up to one rounding: such errors are the same for all, and a second rounding makes them
sqrt(2) times as large. Matrix products keep 1.5: their operands pass through narrow formats in more than one honest way."""

EXACT = Tolerance("the results are ids or copies; every correct implementation gives the same bits", exact=True)


def nbytes(*tensors: Tensor | None) -> float:
    return float(sum(t.numel() * t.element_size() for t in tensors if t is not None))


def normal(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
    """Normally distributed data, drawn in float32 and rounded once, so that every dtype sees the same values."""
    return (torch.randn(*shape, generator=generator) * scale).to(dtype)


FLOATS = (torch.float32, torch.bfloat16)
