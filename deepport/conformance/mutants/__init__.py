"""Deliberately wrong implementations, by which the suite proves that it can fail: a file per family as in `deepport.ops`.

`MUTANTS` are those of the declared operators: faults written for one operator, and `habits` that any kernel may have.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import ModuleType

from deepport.conformance.mutants import attention, cache, compress, dense, engram, mhc, moe, quantize, route, topk
from deepport.conformance.mutants.habits import habits
from deepport.conformance.mutants.mutant import Mutant
from deepport.op import operators

_FAMILIES: tuple[ModuleType, ...] = (attention, cache, compress, dense, engram, mhc, moe, quantize, route, topk)


@functools.cache
def of(operator: str) -> tuple[Mutant, ...]:
    """The mutants of a declared operator, a third party's too."""
    written = tuple(m for family in _FAMILIES for m in family.mutants() if m.operator == operator)
    return (*written, *habits(operators[operator]))


def _all() -> Iterator[Mutant]:
    import deepport.ops  # noqa: F401  (declares the operators)

    for operator in sorted(operators):
        yield from of(operator)


MUTANTS: tuple[Mutant, ...] = tuple(_all())
