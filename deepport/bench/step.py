"""What one step of a model costs and who serves it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from deepport.backend import Runtime
from deepport.bench.result import Served
from deepport.op import Operator
from deepport.record import Record
from deepport.spec import Cost


class Step(Record):
    """A record that also sums the costs of the calls that the model makes, without those that operators make in turn."""

    def __init__(self) -> None:
        super().__init__()
        self._inside = threading.local()
        self.flops = self.bytes = 0.0

    def timed(
        self,
        operator: Operator[..., Any],
        implementation: str,
        refusals: tuple[tuple[str, str], ...],
        runtime: Runtime | None,
        run: Callable[..., Any],
        arguments: tuple[Any, ...],
    ) -> Any:
        outermost = not getattr(self._inside, "now", False)
        if outermost:
            cost: Cost = operator.cost(*operator.bind(arguments).values())
            self.flops += cost.flops
            self.bytes += cost.bytes
        self._inside.now = True
        try:
            return super().timed(operator, implementation, refusals, runtime, run, arguments)
        finally:
            self._inside.now = not outermost

    def served(self) -> tuple[Served, ...]:
        return tuple(Served(operator=r.operator, implementation=r.implementation, calls=r.calls) for r in self.totals())
