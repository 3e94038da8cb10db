"""Mutants: implementations with one fault, which the suite has to notice.

A mutant is an operator's reference asked something else (`asking`), its answer changed (`answering`), or other mathematics
written out. References are captured when a mutant is declared, so that the spy on an operator's reference sees no mutant but
the one whose fault it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deepport import gradient
from deepport.conformance.oracle import listed
from deepport.op import Operator, operators

Run = Callable[..., Any]
Given = dict[str, Any]
"""A call's arguments by name."""


@dataclass(frozen=True)
class Mutant:
    """A deliberately wrong implementation of an operator.

    Attributes:
        fault: what is wrong, in one line for a person.
        run: takes the operator's arguments in order.
        equivalent: why no gate may notice it: it is right in another way. "" for a fault.
        raises: its fault is that it raises.
    """

    name: str
    operator: str
    fault: str
    run: Run
    equivalent: str = ""
    raises: bool = False


def asking(operator: Operator[..., Any], change: Callable[[Given], Given]) -> Run:
    """The reference, with some arguments replaced by what `change` makes of all."""
    reference = operator.reference

    def run(*arguments: Any) -> Any:
        given = operator.bind(arguments)
        return reference(*(given | change(given)).values())

    return run


def answering(operator: Operator[..., Any], change: Callable[[list[Tensor], Given], Any]) -> Run:
    """What `change` makes of the reference's results and the arguments, some of which it may have written to."""
    reference = operator.reference

    def run(*arguments: Any) -> Any:
        return change(listed(reference(*arguments)), operator.bind(arguments))

    return run


def asked(operator: Operator[..., Any], name: str, fault: str, change: Callable[[Given], Given]) -> Mutant:
    return Mutant(name, operator.name, fault, asking(operator, change))


def answered(
    operator: Operator[..., Any], name: str, fault: str, change: Callable[[list[Tensor], Given], Any]
) -> Mutant:
    return Mutant(name, operator.name, fault, answering(operator, change))


def written(operator: Operator[..., Any], name: str, fault: str, run: Run) -> Mutant:
    """Other mathematics altogether: `run` is written out."""
    return Mutant(name, operator.name, fault, run)


def differentiated(operator: Operator[..., Any], name: str, fault: str, forward: Run) -> Mutant:
    """Autograd through a forward function that is not the operator's."""
    other = copy.copy(operator)
    other.reference = forward
    return Mutant(name, f"{operator.name}_backward", fault, gradient.replay(other))


def backward_of(operator: Operator[..., Any]) -> Operator[..., Any]:
    """The operator of its gradient; ValueError where it has none."""
    if operator.backward is None:
        raise ValueError(f"{operator.name} has no gradient; these have: {', '.join(_with_gradient())}")
    return operator.backward


def _with_gradient() -> list[str]:
    return [name for name, o in operators.items() if o.backward is not None]


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x as this dtype would hold it, in x's own dtype."""
    return x.to(dtype).to(x.dtype)
