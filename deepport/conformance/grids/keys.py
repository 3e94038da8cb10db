"""Cases as records: from a case to its key, and from a key alone back to the case.

Parameters become JSON: a dtype is `"torch.bfloat16"`, a tuple a list, and a number that JSON does not know `{"float": "nan"}`. A
key names its builder; only the operator's own builders can be named, so that a record from elsewhere can do nothing but draw.
"""

from __future__ import annotations

import inspect
import math
from functools import cache
from typing import Any

import torch

from deepport.conformance.grids import changes, gradients
from deepport.conformance.result import CaseKey
from deepport.errors import BadInput
from deepport.op import Operator
from deepport.spec import Builder, Case

_DTYPES = {str(d): d for d in vars(torch).values() if isinstance(d, torch.dtype)}


def key(case: Case, seed: int = 0) -> CaseKey:
    """The record from which `find` makes the case again."""
    return CaseKey(
        grid=case.grid,
        label=case.label,
        builder=changes.name_of(case.builder),
        parameters={n: _encoded(v) for n, v in case.parameters.items()},
        variant=case.variant,
        seed=seed,
        note=case.note,
    )


def find(operator: Operator[..., Any], key: CaseKey) -> Case:
    """The case of a record; BadInput where the operator has no such builder, or the builder no such parameters."""
    where = f"{operator.name}, case {key.label!r}"
    builder = _builders(operator).get(key.builder)
    if builder is None:
        known = ", ".join(sorted(_builders(operator)))
        raise BadInput(f"{where}: no builder is called {key.builder!r}; there are: {known}")
    try:
        parameters = {n: _decoded(v) for n, v in key.parameters.items()}
        inspect.signature(builder).bind(None, **parameters)
        raises = _checked(operator, builder, parameters)
    except (TypeError, ValueError, KeyError, BadInput) as error:
        raise BadInput(f"{where}: {key.builder} cannot be called with these parameters: {error}") from error
    return Case(key.label, builder, parameters, key.grid, key.variant, key.note, raises)


@cache
def _builders(operator: Operator[..., Any]) -> dict[str, Builder]:
    if operator.name.endswith("_backward"):
        return {changes.name_of(gradients.gradient): gradients.gradient}
    special: tuple[Builder, ...] = (changes.changed, changes.refused)
    return changes.builders(operator) | {changes.name_of(b): b for b in special}


def _checked(operator: Operator[..., Any], builder: Builder, parameters: dict[str, Any]) -> str:
    """The exception that the case must raise, by name; the builder inside these parameters, where there is one, fits too."""
    if "given" in parameters:
        owner = operator.name.removesuffix("_backward")
        if parameters["operator"] != owner:
            raise BadInput(f"it draws arguments of {parameters['operator']!r}, not of {owner!r}")
        inner = changes.builder_of(owner, parameters["builder"])
        inspect.signature(inner).bind(None, **parameters["given"])
    return changes.FAULTS[parameters["fault"]].raises if builder is changes.refused else ""


def _encoded(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, (tuple, list)):
        return [_encoded(v) for v in value]
    if isinstance(value, dict):
        return {n: _encoded(v) for n, v in value.items()}
    return value


def _decoded(value: Any) -> Any:
    if isinstance(value, str):
        return _DTYPES.get(value, value)
    if isinstance(value, list):
        return tuple(_decoded(v) for v in value)
    if isinstance(value, dict):
        return float(value["float"]) if value.keys() == {"float"} else {n: _decoded(v) for n, v in value.items()}
    return value
