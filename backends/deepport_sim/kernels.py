"""The device's kernels: those of the CPU, on the host's view of the device's memory, each as one piece of work.

Where none of the CPU's takes a call there is none here either, and the reference serves, of plain torch operators on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map_only

from deepport import backend
from deepport.kernel import Kernel, Signature, Support, no, signature_of
from deepport.op import Operator, operators
from deepport.policy import Session
from deepport_sim import device

_ONLY_WRITE = ("write_pages_",)
"""Of the operators that write to an argument those which read nothing of it: others go on with what is there."""


def kernels() -> Sequence[Kernel]:
    cpu = backend.start("cpu").kernels
    return [_kernel(operators[name], tuple(found)) for name, found in cpu.items()]


def _kernel(operator: Operator[..., Any], candidates: tuple[Kernel, ...]) -> Kernel:
    def supports(signature: Signature) -> Support:
        answers = [kernel.supports(signature) for kernel in candidates]
        return next((a for a in answers if a), answers[0] if answers else no("device", "the CPU has no kernel"))

    run = wraps(candidates[0].run)(_one_piece(operator, _by_cpu(operator, candidates)))
    return Kernel(operator.name, "host", run, supports, operator.mutates)


def shapes(operator: Operator[..., Any]) -> Kernel:
    """An operator in dry mode: its shape rule, on meta, and memory for what that gives."""
    run = wraps(operator.reference)(_one_piece(operator, lambda views: operator.fake(*views.values())))
    return Kernel(operator.name, "shapes", run, mutates=operator.mutates)


def _by_cpu(operator: Operator[..., Any], candidates: tuple[Kernel, ...]) -> Callable[[dict[str, Any]], Any]:
    def compute(views: dict[str, Any]) -> Any:
        kernel = next(k for k in candidates if k.supports(signature_of(operator.name, views)))
        with Session(backend="cpu"):  # which other operators it calls is its own affair
            return kernel.run(*views.values())

    return compute


def _one_piece(operator: Operator[..., Any], compute: Callable[[dict[str, Any]], Any]) -> Callable[..., Any]:
    """A function of device tensors: of all that `compute` does with the host's views, the device sees one operator."""
    name = f"deepport::{operator.name}"

    def run(*given: Any) -> Any:
        arguments = operator.bind(given)
        work = device.native().Work(name, _tensors(operator, arguments), operator.name not in _ONLY_WRITE)
        try:
            views = tree_map_only(Tensor, lambda t: work.view(t) if t.device.type == device.NAME else t, arguments)
            return tree_map_only(Tensor, work.adopt, compute(views))
        finally:
            work.done()

    return run


def _tensors(operator: Operator[..., Any], arguments: dict[str, Any]) -> list[tuple[Tensor, str, bool]]:
    return [
        (t, name, name in operator.mutates)
        for name, value in arguments.items()
        for t in (value if isinstance(value, list) else [value])
        if isinstance(t, Tensor)
    ]
