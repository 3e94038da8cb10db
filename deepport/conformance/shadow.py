"""A run in which suspected kernels compute beside their references, and every call is judged by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map_only

from deepport.conformance.bundle import Bundle
from deepport.conformance.decisions import Decisions, Directed, identity
from deepport.conformance.judge import judge, output_name
from deepport.conformance.oracle import Truth, listed, truth
from deepport.conformance.result import Gate
from deepport.op import Operator
from deepport.policy import Choice


class Shadowed(Directed):
    """Judges the calls of suspects, until one fails; the run goes on with what the reference gives, so that inputs stay right.

    Args:
        suspects: kernels, by `identity`.
        site: the place in the model that is being computed.
        failed: called with the first call of each suspect that fails, before anything else is computed.
    """

    def __init__(
        self,
        decisions: Decisions,
        suspects: frozenset[str],
        site: Callable[[], str],
        failed: Callable[[Bundle], None],
        **policy: Any,
    ) -> None:
        super().__init__(decisions, **policy)
        self.calls: Counter[str] = Counter()
        self.found: set[str] = set()
        self._suspects, self._site, self._failed = suspects, site, failed

    def _served(self, operator: Operator[..., Any], choice: Choice) -> Choice:
        choice = super()._served(operator, choice)
        if identity(operator.name, choice.implementation) not in self._suspects:
            return choice
        return replace(choice, run=lambda *a: self._shadow(operator, choice, a))

    def _shadow(self, operator: Operator[..., Any], choice: Choice, arguments: tuple[Any, ...]) -> Any:
        name, site = identity(operator.name, choice.implementation), self._site()
        self.calls[name] += 1
        number = self.calls[name]
        if name not in self.found:
            call = _judged(operator, choice, operator.bind(arguments))
            if any(g.status == "fail" for g in call.gates):
                self.found.add(name)
                self._failed(replace(call, call=number, site=site))
        return operator.reference(*arguments)


def _judged(operator: Operator[..., Any], choice: Choice, given: dict[str, Any]) -> Bundle:
    """What a kernel makes of a call, on copies of what it writes to."""
    own = given | {n: given[n].clone() for n in operator.mutates}
    results = listed(choice.run(*own.values()))
    got = [t.cpu() for t in (*results, *(own[n] for n in operator.mutates))]
    arguments = {n: tree_map_only(Tensor, lambda t: t.cpu(), a) for n, a in given.items()}
    expected = truth(operator, arguments)
    gates = _misshapen(operator, got, expected) or judge(operator, arguments, got, expected)
    backend = choice.implementation.partition("/")[0]
    return Bundle(operator.name, backend, choice.implementation, arguments, expected, got, tuple(gates))


def _misshapen(operator: Operator[..., Any], got: list[Tensor], expected: Truth) -> list[Gate]:
    right = [(t.dtype, tuple(t.shape)) for t in expected.yardstick]
    found = [(t.dtype, tuple(t.shape)) for t in got]
    if found == right:
        return []
    wrong = [
        f"{output_name(operator, i)} is {f}, not {r}"
        for i, (f, r) in enumerate(zip(found, right, strict=False))
        if f != r
    ]
    detail = "; ".join(wrong) or f"{len(found)} outputs, not {len(right)}"
    return [Gate(gate="G1", metric="shapes", status="fail", detail=detail)]
