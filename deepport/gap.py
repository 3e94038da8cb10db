"""Gaps: what a backend knows that it cannot do, declared by the backend itself, with a reason and a date.

A backend publishes them as its optional attribute `gaps`. A case with a gap runs all the same. If it fails, the report says `gap`
and why, and counts the case as required and not passed; if it passes, the gap is closed and its declaration is a failure, until
it is removed; past its date it is a failure again. Imports no torch: a backend's package may name its gaps where it is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase
from typing import Literal


@dataclass(frozen=True)
class Gap:
    """One thing that does not work yet, or never will.

    Attributes:
        operator: its name; `*` and `?` match as in a shell, here and in the next two.
        kind: `notimpl` is ours to do, `notyet` the vendor's, `never` cannot be.
        reason: one line for the person who meets it.
        expires: the day from which the gap no longer excuses anything, as in 2027-03-31.
        link: an issue, a vendor's bug.
        case: labels of cases, as a report shows them.
        implementation: `<backend>/<kernel>` or `reference`.

    Raises ValueError for a kind that is none, an empty reason, or a date that is none.
    """

    operator: str
    kind: Literal["notimpl", "notyet", "never"]
    reason: str
    expires: str
    link: str = ""
    case: str = "*"
    implementation: str = "*"

    def __post_init__(self) -> None:
        if self.kind not in ("notimpl", "notyet", "never"):
            raise ValueError(f"gap of {self.operator}: the kind {self.kind!r} is none of: notimpl, notyet, never")
        if not self.reason.strip():
            raise ValueError(f"gap of {self.operator}: it needs a reason")
        date.fromisoformat(self.expires)

    def covers(self, operator: str, case: str, implementation: str) -> bool:
        pairs = ((operator, self.operator), (case, self.case), (implementation, self.implementation))
        return all(fnmatchcase(name, pattern) for name, pattern in pairs)

    def expired(self, today: date) -> bool:
        return today >= date.fromisoformat(self.expires)

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason} (until {self.expires})"
