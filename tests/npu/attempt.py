"""One call of a kernel, judged by its operator's own gates."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from deepport.conformance.judge import judge
from deepport.conformance.oracle import truth
from deepport.kernel import Kernel
from deepport.op import Operator


def attempt(operator: Operator[..., Any], kernel: Kernel, arguments: dict[str, Any], device: str) -> list[str] | None:
    """The gates that fail; None where the kernel does not take the call."""
    placed = {n: a.to(device) if isinstance(a, Tensor) else a for n, a in arguments.items()}
    values = tuple(placed.get(n, operator.defaults.get(n)) for n in operator.parameters)
    if not kernel.supports(operator.signature(values)):
        return None
    results = kernel.run(*values)
    got = [t.cpu() for t in (results if isinstance(results, tuple) else (results,))]
    if any(not t.is_contiguous() for t in got):
        return ["an output is not contiguous"]
    judged = judge(operator, arguments, got, truth(operator, arguments))
    return [f"{g.gate} {g.metric} {g.value} {g.bound} {g.detail}" for g in judged if g.status == "fail"]
