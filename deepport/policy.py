r"""Who computes a call: a backend's kernel, or the reference, as the policy allows; and the record of who did.

A `Session` is entered around a run. Calls made outside any session are served under the policy `device`.

| policy | where no kernel takes a call |
|---|---|
| `device` | the reference computes it, with plain torch operators on the same device |
| `error` | it is refused (`Unsupported`, exit code 4) |
| `host` | the operators in `host` are computed by the reference on the CPU, at most `host_budget` calls; past it \
`FallbackBudgetExceeded`, exit code 5. The others as under `device` |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from deepport import backend
from deepport.errors import BackendBroken, FallbackBudgetExceeded, Unsupported
from deepport.kernel import Kernel, Support
from deepport.op import Operator
from deepport.paper import OnPaper
from deepport.record import Record, called
from deepport.server import Server, current_server, set_default_server

Fallback = Literal["device", "error", "host"]
REFERENCE = "reference"
HOST = "reference on host"


@dataclass(frozen=True)
class Choice:
    """Who serves a call, and why no earlier kernel does: `(kernel, reason)` in the order in which they were asked."""

    implementation: str
    run: Callable[..., Any]
    refusals: tuple[tuple[str, str], ...] = ()


class Session:
    """A policy in force, and what it records. `with Session(...) as session: ...`

    In force in the thread (or asyncio task) that enters it, and in the backward pass of what is computed there.

    Args:
        fallback: what happens where no kernel takes a call.
        host, host_budget: the operators that may go to the host, and in how many calls.
        backend: serve every call by this backend's kernels, whatever the tensors' device: for a backend that simulates a
            device on CPU tensors, and for planning on meta tensors, also `on paper`. None: the tensors' device chooses.
        record: counts calls, time and bytes; None records nothing.
    """

    watches = False
    """Whether every call has to pass here: a session that decides by the data of calls cannot have them replayed."""

    def __init__(
        self,
        fallback: Fallback = "device",
        *,
        host: frozenset[str] = frozenset(),
        host_budget: int = 0,
        backend: str | OnPaper | None = None,
        record: Record | None = None,
    ) -> None:
        self.fallback, self.host, self.host_budget = fallback, host, host_budget
        self.record, self.host_calls = record, 0
        self._named = backend

    def __enter__(self) -> Self:
        _entered.set((*_entered.get(), current_server.set(self)))
        return self

    def __exit__(self, *_: object) -> None:
        *outer, token = _entered.get()
        current_server.reset(token)
        _entered.set(tuple(outer))

    def serve(self, operator: Operator[..., Any], arguments: tuple[Any, ...]) -> Any:
        started = self._backend(operator, arguments)
        choice = self._choose(operator, arguments, started)
        runtime = started.runtime if started else None
        try:
            if self.record is None:
                return choice.run(*arguments)
            return self.record.timed(operator, choice.implementation, choice.refusals, runtime, choice.run, arguments)
        except Exception as error:  # never retried; who reads it shall know where it was, and with what
            error.add_note(called(error, operator, arguments, choice.implementation, runtime))
            raise

    def trace(self, operator: Operator[..., Any], arguments: tuple[Any, ...]) -> None:
        """Note who would serve a call whose tensors have no data."""
        if self.record is not None and self._named is not None:
            choice = self._choose(operator, arguments, self._backend(operator, arguments), planning=True)
            self.record.planned(operator, choice.implementation, choice.refusals, arguments)

    def _backend(self, operator: Operator[..., Any], arguments: tuple[Any, ...]) -> backend.Started | OnPaper | None:
        if isinstance(self._named, str):
            return backend.start(self._named)
        if self._named is not None:
            return self._named
        return backend.serving(_device(operator, arguments).type)

    def _choose(
        self,
        operator: Operator[..., Any],
        arguments: tuple[Any, ...],
        started: backend.Started | OnPaper | None,
        planning: bool = False,
    ) -> Choice:
        refusals: list[tuple[str, str]] = []
        for implementation, kernel, support in _answers(operator, arguments, started):
            if support:
                return Choice(implementation, kernel.run, tuple(refusals))
            refusals.append((implementation, f"{support.code}: {support.reason}"))
        if self.fallback == "host" and operator.name in self.host:
            return Choice(HOST, lambda *a: self._on_host(operator, a), tuple(refusals))
        if self.fallback == "error" and not planning:
            asked = "; ".join(f"{k} refuses ({r})" for k, r in refusals) or "no kernel is declared"
            raise Unsupported(f"{operator.name}: {started.name if started else 'no backend'}: {asked}")
        return Choice(REFERENCE, operator.reference, tuple(refusals))

    def _on_host(self, operator: Operator[..., Any], arguments: tuple[Any, ...]) -> Any:
        """The reference on copies of the arguments; what it mutates is copied back."""
        self.host_calls += 1
        if self.host_calls > self.host_budget:
            raise FallbackBudgetExceeded(
                f"{operator.name}: more than {self.host_budget} calls fell back to the host; raise --fallback-budget or "
                "remove the operator from --fallback host:..."
            )
        device = _device(operator, arguments)
        moved = tree_map_only(Tensor, lambda t: t.cpu(), list(arguments))
        result = operator.reference(*moved)
        for name, original, copy in zip(operator.parameters, arguments, moved, strict=False):
            if name in operator.mutates:
                original.copy_(copy)
        return tree_map_only(Tensor, lambda t: t.to(device), result)


def _answers(
    operator: Operator[..., Any], arguments: tuple[Any, ...], started: backend.Started | OnPaper | None
) -> Iterator[tuple[str, Kernel, Support]]:
    """What each of the backend's kernels says to a call, in the backend's order."""
    kernels = started.kernels.get(operator.name) if started else None
    if started is None or kernels is None:
        return
    signature = operator.signature(arguments)
    for kernel in kernels:
        implementation = f"{started.name}/{kernel.name}"
        try:
            support = kernel.supports(signature)
        except Exception as error:  # a bug of the kernel's, and no refusal: nobody else is asked
            what = f"supports() raised {type(error).__name__}: {error}"
            raise BackendBroken(f"{operator.name}: {implementation}: {what}") from error
        yield implementation, kernel, support


def _device(operator: Operator[..., Any], arguments: tuple[Any, ...]) -> torch.device:
    """The device that chooses the backend: of the operator's home argument, or of its first tensor."""
    if operator.home is not None:
        device: torch.device = arguments[operator.parameters.index(operator.home)].device
        return device
    return next((a.device for a in arguments if isinstance(a, Tensor)), torch.device("cpu"))


_entered: ContextVar[tuple[Token[Server], ...]] = ContextVar("deepport_entered", default=())
"""What leaving this context's sessions restores, the innermost last. A token is valid only in the context that made it."""

set_default_server(Session())
