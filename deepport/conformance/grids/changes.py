"""Cases made of others: ordinary arguments, with something done to them.

A change is `(argument, what, value)`, plain data, so that it can be written to a record:

| what | does |
|---|---|
| `times` | multiplies the tensor, rounding once |
| `fill` | sets every element |
| `set` | `(index, value)`: sets the elements at an index |
| `entry` | `(table, sequence, entry, value)`: sets one cached row of a sequence |
| `give` | replaces the argument |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from deepport.errors import BadInput
from deepport.op import Operator, operators
from deepport.ragged import page_rows
from deepport.spec import Builder

Change = tuple[str, str, Any]
Changes = tuple[Change, ...]
Arguments = dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """What makes a call one that has to raise."""

    raises: str
    changes: Changes


FAULTS = {
    "a position behind the table": Fault("IndexError", (("positions", "set", (0, 1 << 33)),)),
    "a negative position": Fault("IndexError", (("positions", "set", (0, -1)),)),
    "an id behind the table": Fault("IndexError", (("ids", "set", ((0, 0), 1 << 33)),)),
    "a negative id": Fault("IndexError", (("ids", "set", ((0, 0), -1)),)),
    "a NaN": Fault("ValueError", (("x", "set", ((0, 0), float("nan"))),)),
    "an infinity": Fault("ValueError", (("x", "set", ((0, 0), float("inf"))),)),
    "an unknown format": Fault("ValueError", (("format", "give", "fp4_e3m0"),)),
    "a block of several rows": Fault("ValueError", (("format", "give", "fp8_e4m3:128x128"),)),
    "an unknown scoring": Fault("ValueError", (("scoring", "give", "tanh"),)),
    "a table without ids": Fault("ValueError", (("input_ids", "give", None),)),
    "ids without a table": Fault("ValueError", (("table", "give", None),)),
    "an unknown convention": Fault("ValueError", (("zero", "give", "negative"),)),
}
"""By what they are called in a case."""


def changed(g: Generator, operator: str, builder: str, given: Mapping[str, Any], changes: Changes) -> Arguments:
    """The arguments `builder(g, **given)` of an operator, with changes."""
    arguments = builder_of(operator, builder)(g, **given)
    for name, what, value in changes:
        if name not in arguments or what not in _DOES:
            raise BadInput(f"{operator}: a case cannot {what!r} its {name!r}")
        arguments[name] = _DOES[what](arguments, name, value)
    return arguments


def refused(g: Generator, operator: str, builder: str, given: Mapping[str, Any], fault: str) -> Arguments:
    """Arguments that the operator has to refuse, by the exception of this fault."""
    return changed(g, operator, builder, given, FAULTS[fault].changes)


def name_of(builder: Builder) -> str:
    """`attention.index_arguments`: the function and its module."""
    return f"{builder.__module__.rpartition('.')[2]}.{builder.__qualname__}"


def builders(operator: Operator[..., Any]) -> dict[str, Builder]:
    """The operator's own builders, by name."""
    return {name_of(c.builder): c.builder for c in operator.cases}


def builder_of(operator: str, name: str) -> Builder:
    """An operator's builder by name; BadInput where there is none."""
    if operator not in operators or name not in builders(operators[operator]):
        raise BadInput(f"the operator {operator!r} has no builder called {name!r}")
    return builders(operators[operator])[name]


def _times(arguments: Arguments, name: str, factor: float) -> Tensor:
    found: Tensor = arguments[name]
    return (found.double() * factor).to(found.dtype)


def _set(arguments: Arguments, name: str, value: Any) -> Tensor:
    index, new = value
    found: Tensor = arguments[name].clone()
    found[index] = new
    return found


def _entry(arguments: Arguments, name: str, value: Any) -> Tensor:
    table, sequence, entry, new = value
    found: Tensor = arguments[name].clone()
    found.flatten(0, 1)[page_rows(arguments[table], found.shape[1], sequence, torch.tensor([entry]))] = new
    return found


_DOES: dict[str, Callable[[Arguments, str, Any], Any]] = {
    "times": _times,
    "fill": lambda arguments, name, value: torch.full_like(arguments[name], value),
    "set": _set,
    "entry": _entry,
    "give": lambda arguments, name, value: value,
}
