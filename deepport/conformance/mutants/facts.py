"""What of an operator decides which habits it can have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from deepport.conformance.contract import contract_of
from deepport.conformance.oracle import tensors
from deepport.op import Operator, operators

AnyOperator = Operator[..., Any]


@dataclass(frozen=True)
class Facts:
    """What of an operator a habit can take hold of. `narrow`: some results are bfloat16; `narrow_in`: what they are made of."""

    returns: bool
    inexact: bool
    narrow: bool
    narrow_in: bool
    backward: bool
    by_row: bool


def facts(operator: AnyOperator) -> Facts:
    """Of any operator; of a gradient's, from the forward operator's cases."""
    forward = operators[operator.name.removesuffix("_backward")]
    outputs, differentiated = _narrow(forward)
    return Facts(
        returns=bool(operator.overload._schema.returns),
        inexact=not operator.tolerance.exact,
        narrow=outputs if forward is operator else differentiated,
        narrow_in=outputs,
        backward=forward is not operator,
        by_row=bool(contract_of(operator.name).rows),
    )


def _narrow(forward: AnyOperator) -> tuple[bool, bool]:
    """Whether some outputs, and some arguments that have a gradient, are bfloat16 in a case with bfloat16 in it."""
    for case in forward.cases:
        if torch.bfloat16 in case.parameters.values():
            arguments = case.arguments()
            given = {n: arguments.get(n, forward.defaults.get(n)) for n in forward.parameters}
            outputs = forward.fake(*tree_map_only(Tensor, lambda t: t.to("meta"), given).values())
            return _has_bfloat16(outputs), _has_bfloat16([given[n] for n in forward.differentiable])
    return False, False


def _has_bfloat16(values: Any) -> bool:
    return any(t.dtype == torch.bfloat16 for t in tensors(values))
