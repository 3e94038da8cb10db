"""Gradients: the cases of a forward operator, with gradients of its outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Generator, Tensor

from deepport.conformance.grids.changes import builder_of, name_of
from deepport.conformance.oracle import listed
from deepport.op import Operator, operators
from deepport.spec import Case, normal

GRID = "gradients"


def gradient(
    g: Generator, operator: str, builder: str, given: Mapping[str, Any], grads: tuple[bool, ...]
) -> dict[str, Any]:
    """Arguments of `<operator>_backward`: normal gradients of the outputs marked in `grads`; all that can be is wanted."""
    forward = operators[operator]
    arguments = forward.defaults | builder_of(operator, builder)(g, **given)
    shapes = listed(forward.fake(*(arguments[n] for n in forward.parameters)))
    found = [normal(g, *s.shape, dtype=s.dtype) if wanted else None for s, wanted in zip(shapes, grads, strict=True)]
    return {"grads": found, "output_mask": _wanted(forward, arguments), **{n: arguments[n] for n in forward.parameters}}


def cases(operator: Operator[..., Any]) -> Iterator[Case]:
    """Of `<forward>_backward`: every case of the forward operator in which something has a gradient."""
    forward = operators[operator.name.removesuffix("_backward")]
    grads = _grads(forward)
    for case in forward.cases:
        if any(_wanted(forward, case.arguments())):
            given = {"operator": forward.name, "builder": name_of(case.builder), "given": dict(case.parameters)}
            yield Case(case.label, gradient, {**given, "grads": grads}, GRID)


def _wanted(forward: Operator[..., Any], arguments: Mapping[str, Any]) -> list[bool]:
    """Of each differentiable argument, whether it is a tensor of floats; quantised ones have no gradient."""
    return [_is_float(arguments[n]) for n in forward.differentiable]


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.element_size() > 1


def _grads(forward: Operator[..., Any]) -> tuple[bool, ...]:
    """Which outputs have a gradient, as the reference makes them: some case shows it."""
    found: list[tuple[bool, ...]] = []
    for case in forward.cases:
        arguments = forward.defaults | case.arguments()
        for name, wanted in zip(forward.differentiable, _wanted(forward, arguments), strict=True):
            if wanted:
                arguments[name] = arguments[name].requires_grad_()
        with torch.enable_grad():
            outputs = listed(forward.reference(**arguments))
        found.append(tuple(o.requires_grad for o in outputs))
    return tuple(any(flags) for flags in zip(*found, strict=True))
