"""What an operator promises beyond its numbers: what it never reads, what it leaves open, what it repeats bit for bit.

Numbers have their bounds beside the operator (`deepport.spec.Tolerance`). An operator without an entry in `CONTRACTS` has the
strictest contract that needs no knowledge of it: everything is read, everything is specified, and the same call gives the same
bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from deepport.conformance.result import Gate

Arguments = Mapping[str, Any]
Masks = dict[str, Tensor]


@dataclass(frozen=True)
class Contract:
    """What holds for every implementation of an operator.

    Attributes:
        unread: by argument, `bool` of its shape: True where no implementation may read. The suite fills it with NaN, or with ids
            that point nowhere.
        free: by index of the output, `bool` of its shape: True where the contract leaves the value open.
        rows: arguments with a row for each token, where a row's bits must not depend on the other rows; () where they may.
        deterministic: the same call gives the same bits. Gradients may add in any order.
        selection: judges outputs that are choices (gate G5) and returns, beside what it found, the arguments under which the
            other outputs are to be computed: those that make the choice that was made. None: integer outputs are exact.
    """

    unread: Callable[[Arguments], Masks] = lambda arguments: {}
    free: Callable[[Arguments], dict[int, Tensor]] = lambda arguments: {}
    rows: tuple[str, ...] = ()
    deterministic: bool = True
    selection: Callable[[Arguments, list[Tensor]], tuple[list[Gate], dict[str, Any]]] | None = None


def contract_of(operator: str) -> Contract:
    """The contract of an operator by name."""
    from deepport.conformance.contracts import CONTRACTS

    if operator.endswith("_backward"):
        return Contract(deterministic=False)
    return CONTRACTS.get(operator, Contract())
