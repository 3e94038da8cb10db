"""The calls that a conformance run makes, by profile.

| grid | cases | from |
|---|---|---|
| `operator` | those declared beside the operator | bring-up |
| `v4-flash`, `v4-pro`, `engram` | feature dimensions of the published models | inference |
| `generated` | drawn by property-based strategies, seeded | inference |
| `special` | layouts, magnitudes, ties, NaN, far memory, refusals | inference |
| `gradients` | the operator grid, differentiated | training |

A case can be written to a record (`key`) and made again from it alone (`find`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deepport.conformance.grids import captured, gradients, special
from deepport.conformance.grids.keys import find, key
from deepport.conformance.profile import Profile
from deepport.op import Operator
from deepport.spec import Case

__all__ = ["cases", "find", "key"]


def cases(operator: Operator[..., Any], profile: Profile) -> list[Case]:
    """What the profile asks of an operator; each profile asks all that the one before it does."""
    return list(_cases(operator, profile))


def _cases(operator: Operator[..., Any], profile: Profile) -> Iterator[Case]:
    if operator.name.endswith("_backward"):
        if profile == "training":
            yield from gradients.cases(operator)
        return
    yield from operator.cases
    if profile != "bring-up":
        from deepport.conformance.grids import generated  # hypothesis takes a while to import

        yield from captured.cases(operator)
        yield from generated.cases(operator)
        yield from special.cases(operator)
