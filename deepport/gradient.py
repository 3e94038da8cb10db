"""Gradients of operators: autograd through the reference, as an operator of its own.

`<name>_backward(grads, output_mask, *arguments)` returns the gradients of the masked differentiable arguments. Being an operator,
it is opaque to compile and export, which so see no data-dependent code, and a backend may declare a kernel for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.library import Library, register_autograd

from deepport.server import current_server
from deepport.spec import Cost

if TYPE_CHECKING:
    from deepport.op import Operator

Backward = Callable[..., list[Tensor]]


def schema(forward: str) -> str:
    """The backward operator's schema, from the forward operator's."""
    arguments = re.sub(r"=[^,)]+", "", forward.partition(" -> ")[0][1:])
    return f"(Tensor?[] grads, bool[] output_mask, {arguments} -> Tensor[]"


def cost(forward: Operator[..., Any]) -> Callable[..., Cost]:
    """Once forward, and twice its work for the gradients of both factors."""

    def count(grads: list[Tensor | None], output_mask: list[bool], *args: Any) -> Cost:
        once = forward.cost(*args)
        return Cost(3 * once.flops, 3 * once.bytes)

    return count


def fake(forward: Operator[..., Any]) -> Backward:
    """Gradients have the shapes of their arguments."""

    def shapes(grads: list[Tensor | None], output_mask: list[bool], *args: Any) -> list[Tensor]:
        return [t.new_empty(t.shape) for t in _masked(forward, output_mask, args).values()]

    return shapes


def replay(forward: Operator[..., Any]) -> Backward:
    """The backward operator's reference: run the forward reference again, recording, and differentiate it."""

    def run(grads: list[Tensor | None], output_mask: list[bool], *args: Any) -> list[Tensor]:
        if torch._C._dispatch_tls_is_dispatch_key_excluded(torch._C.DispatchKey.AutogradFunctionality):
            raise RuntimeError(f"{forward.name}: its gradient was asked for where autograd cannot record")
        with torch.enable_grad():
            leaves = {n: t.detach().requires_grad_() for n, t in _masked(forward, output_mask, args).items()}
            result = forward.reference(**forward.bind(args) | leaves)
            outputs = result if isinstance(result, tuple) else (result,)
            return _differentiate(outputs, grads, list(leaves.values()))

    run.__doc__ = f"Gradient of `{forward.name}`: autograd through its reference."
    return run


def _masked(forward: Operator[..., Any], output_mask: list[bool], args: tuple[Any, ...]) -> dict[str, Tensor]:
    """The differentiable arguments whose gradient is asked for."""
    arguments = forward.bind(args)
    return {n: arguments[n] for n, wanted in zip(forward.differentiable, output_mask, strict=True) if wanted}


def _differentiate(outputs: tuple[Tensor, ...], grads: list[Tensor | None], leaves: list[Tensor]) -> list[Tensor]:
    """Gradients of the leaves, of zeros where an output does not depend on one (no rows, say)."""
    pairs = [(o, g) for o, g in zip(outputs, grads, strict=True) if g is not None and o.requires_grad]
    if not pairs:
        return [torch.zeros_like(leaf, memory_format=torch.contiguous_format) for leaf in leaves]
    found = torch.autograd.grad(
        [o for o, _ in pairs], leaves, [g for _, g in pairs], allow_unused=True, materialize_grads=True
    )
    return [g.contiguous() for g in found]


def register(forward: Operator[..., Any], backward: Operator[..., list[Tensor]], library: Library) -> None:
    """Make autograd call the backward operator."""
    indices = [forward.parameters.index(n) for n in forward.differentiable]

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        for i, (name, value) in enumerate(zip(forward.parameters, inputs, strict=True)):
            if i not in indices and isinstance(value, Tensor) and value.requires_grad:
                raise RuntimeError(f"{forward.name}: no gradient is defined for {name!r}, which requires one")
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*(a if isinstance(a, Tensor) else None for a in inputs))
        ctx.scalars = [None if isinstance(a, Tensor) else a for a in inputs]
        ctx.server = current_server.get(None)

    def differentiate(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        arguments = [s if t is None else t for t, s in zip(ctx.saved_tensors, ctx.scalars, strict=True)]
        # The dispatcher drops trailing arguments that equal their default, and so does needs_input_grad.
        needs = [*ctx.needs_input_grad, *[False] * len(arguments)]
        mask = [needs[i] for i in indices]
        # Devices' backward passes run on threads of their own, which do not inherit the forward pass's session.
        token = current_server.set(ctx.server) if ctx.server else None
        try:
            found: Iterator[Tensor] = iter(backward(list(grads), mask, *arguments))
        finally:
            if token:
                current_server.reset(token)
        by_index = {i: next(found) for i, m in zip(indices, mask, strict=True) if m}
        return tuple(by_index.get(i) for i in range(len(arguments)))

    register_autograd(f"deepport::{forward.name}", differentiate, setup_context=setup, lib=library)
