"""What an operator declares beside its reference: its cost, its cases and its tolerance."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cost:
    """What a call must do at least: arithmetic operations, and bytes that are read or written once."""

    flops: float
    bytes: float


@dataclass(frozen=True)
class Case:
    """A call that every backend must answer.

    `build` draws the arguments by name, on the CPU, from a seeded generator; a case is therefore its label and a seed.
    """

    label: str
    build: Callable[[torch.Generator], dict[str, Any]]

    def arguments(self, seed: int = 0) -> dict[str, Any]:
        return self.build(torch.Generator().manual_seed(seed))


def case(arguments: Callable[..., dict[str, Any]], **parameters: Any) -> Case:
    """The case `arguments(generator, **parameters)`, labelled by its parameters."""
    label = ",".join(f"{n}={_text(v)}" for n, v in parameters.items())
    return Case(label, lambda generator: arguments(generator, **parameters))


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return "x".join(map(_text, value))
    return str(value).removeprefix("torch.")


Cases = Callable[[], Iterable[Case]]


@dataclass(frozen=True)
class Tolerance:
    """How far a kernel's error may exceed the reference's own, both against float64 (design: conformance, gate G2).

    Attributes:
        rms: bound on the ratio of root-mean-square errors.
        max: bound on the ratio of largest errors.
        exact: the results are integers or copies, and must be equal bit for bit; the ratios are then unused.
        reason: why these bounds and no others.
    """

    reason: str
    rms: float = 1.5
    max: float = 5.0
    exact: bool = False


EXACT = Tolerance("the results are ids or copies; every correct implementation gives the same bits", exact=True)


def nbytes(*tensors: Tensor | None) -> float:
    return float(sum(t.numel() * t.element_size() for t in tensors if t is not None))


def normal(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
    """Normally distributed data, drawn in float32 and rounded once, so that every dtype sees the same values."""
    return (torch.randn(*shape, generator=generator) * scale).to(dtype)


FLOATS = (torch.float32, torch.bfloat16)
