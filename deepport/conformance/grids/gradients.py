"""Gradients: the cases of a forward operator, with gradients of its outputs; laid out with gaps, and large ones too.

Autograd hands a backward operator whatever strides the model's views have, and a scaled loss whatever size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor

from deepport.conformance.grids.changes import builder_of, name_of
from deepport.conformance.grids.special import layouts
from deepport.conformance.oracle import listed
from deepport.op import Operator, operators
from deepport.spec import Case, case, normal

GRID = "gradients"

_LARGE = 1e6
"""Past float16's largest number, as under a scaled loss."""


def gradient(
    g: Generator, operator: str, builder: str, given: Mapping[str, Any], grads: tuple[bool, ...], size: float = 1.0
) -> dict[str, Any]:
    """`backward` of what a case's builder draws."""
    return backward(g, operators[operator], builder_of(operator, builder)(g, **given), grads, size)


def backward(
    g: Generator,
    forward: Operator[..., Any],
    given: Mapping[str, Any],
    grads: tuple[bool, ...] | None = None,
    size: float = 1.0,
) -> dict[str, Any]:
    """Arguments of `<forward>_backward` from the forward operator's: normal gradients, times `size`, of the outputs marked in
    `grads`, by default of all that can have one; what can have a gradient is wanted."""
    arguments, grads = {**forward.defaults, **given}, _grads(forward) if grads is None else grads
    shapes = listed(forward.fake(*(arguments[n] for n in forward.parameters)))
    found = [
        normal(g, *s.shape, dtype=s.dtype, scale=size) if wanted else None
        for s, wanted in zip(shapes, grads, strict=True)
    ]
    return {"grads": found, "output_mask": _wanted(forward, arguments), **{n: arguments[n] for n in forward.parameters}}


def cases(operator: Operator[..., Any]) -> Iterator[Case]:
    """Of `<forward>_backward`: every case of the forward operator in which something has a gradient."""
    forward = operators[operator.name.removesuffix("_backward")]
    grads = _grads(forward)
    for found in forward.cases:
        if any(_wanted(forward, found.arguments())):
            yield _case(forward, found, grads)
    builder = forward.cases[0].builder
    for found in (case(builder, **given) for given in layouts(forward.name)):
        if any(_wanted(forward, found.arguments())):
            yield replace(_case(forward, found, grads, "strided: "), variant="strided")
            yield _case(forward, found, grads, "large: ", size=_LARGE)


def _case(forward: Operator[..., Any], found: Case, grads: tuple[bool, ...], label: str = "", **more: float) -> Case:
    given = {"operator": forward.name, "builder": name_of(found.builder), "given": dict(found.parameters)}
    return Case(label + found.label, gradient, {**given, "grads": grads, **more}, GRID)


def _wanted(forward: Operator[..., Any], arguments: Mapping[str, Any]) -> list[bool]:
    """Of each differentiable argument, whether it is a tensor of floats; quantised ones have no gradient."""
    return [_is_float(arguments[n]) for n in forward.differentiable]


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.element_size() > 1


def _grads(forward: Operator[..., Any]) -> tuple[bool, ...]:
    """Which outputs have a gradient, as the reference makes them: some case shows it."""
    found: list[tuple[bool, ...]] = []
    for declared in forward.cases:
        arguments = forward.defaults | declared.arguments()
        for name, wanted in zip(forward.differentiable, _wanted(forward, arguments), strict=True):
            if wanted:
                arguments[name] = arguments[name].requires_grad_()
        with torch.enable_grad():
            outputs = listed(forward.reference(**arguments))
        found.append(tuple(o.requires_grad for o in outputs))
    return tuple(any(flags) for flags in zip(*found, strict=True))
