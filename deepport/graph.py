"""Work that is captured once and replayed: for steps whose shapes repeat, such as decoding, and cost more to issue than to do.

A backend offers it by a method of its runtime, `capture(function, inputs, record) -> (result, graph)`: the function is called,
and all that it does on the device is noted; `graph.replay()` does it again in the same memory, with what that holds by then.
Where the work depends on data that the host has read, there is a reason in place of the graph: the result is right all the same,
and the step is not to be repeated, for it may have written to caches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import Tensor

from deepport import backend
from deepport.policy import Session
from deepport.record import Record
from deepport.server import server


class Graph(Protocol):
    """Captured work, with all the memory that it uses."""

    def replay(self) -> None: ...


Capture = Callable[[Callable[..., Tensor], tuple[Tensor, ...], Record | None], tuple[Tensor, Graph | str]]

_refusals: ContextVar[list[str] | None] = ContextVar("deepport_capture_refusals", default=None)


@contextmanager
def refusals() -> Iterator[list[str]]:
    """Why what is done inside cannot be replayed, as far as those who do it say: a backend captures within this context."""
    reasons: list[str] = []
    token = _refusals.set(reasons)
    try:
        yield reasons
    finally:
        _refusals.reset(token)


def refuse(reason: str) -> None:
    """Say that what is done here cannot be replayed, such as work of another thread. Outside of a capture nobody hears it."""
    reasons = _refusals.get()
    if reasons is not None:
        reasons.append(reason)


class Repeated:
    """A function of tensors that is called many times with tensors of the same shapes.

    The first call computes; the second is captured; from the third on the inputs are copied into the captured call's and its
    work is replayed. Everything else that the function uses (weights, caches) must stay where it is. Calls are computed one by
    one where the backend cannot capture, where gradients are recorded, and under a session that watches every call.

    Attributes:
        refusal: why calls are not captured, "" where they are or none has been tried.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._function = function
        self._captured: dict[Any, _Captured | None] = {}
        self.refusal = ""

    def __call__(self, *inputs: Tensor) -> Tensor:
        session = server()
        capture = capturing(inputs[0].device)
        if capture is None or torch.is_grad_enabled() or not isinstance(session, Session) or session.watches:
            return self._function(*inputs)
        key = (session, *((t.shape, t.dtype) for t in inputs))
        if key not in self._captured:
            self._captured[key] = None
            return self._function(*inputs)
        captured = self._captured[key]
        if captured is not None:
            return captured(inputs)
        if self.refusal:
            return self._function(*inputs)
        return self._capture(key, capture, inputs, session.record)

    def _capture(self, key: Any, capture: Capture, inputs: tuple[Tensor, ...], record: Record | None) -> Tensor:
        own = tuple(t.clone() for t in inputs)
        result, graph = capture(self._function, own, record)
        if isinstance(graph, str):
            self.refusal = graph
        else:
            self._captured[key] = _Captured(own, result, graph)
        return result.clone()


class _Captured:
    """One captured call: its inputs, its result, and the work between them."""

    def __init__(self, inputs: tuple[Tensor, ...], result: Tensor, graph: Graph) -> None:
        self._inputs, self._result, self._graph = inputs, result, graph

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._result.clone()


def capturing(device: torch.device) -> Capture | None:
    """How the device's backend captures, None where it cannot."""
    started = backend.serving(device.type)
    return getattr(started.runtime, "capture", None) if started else None
