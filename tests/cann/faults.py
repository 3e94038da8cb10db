"""What is to go wrong, and when: a plan such as `aclnnMm@3=561000,memory@20`.

Entries are separated by commas; `@N` is the N-th time (1 when not given), `=CODE` the error code that CANN returns.

    NAME        the operator NAME refuses: its first half returns the code (default 561000, an inner error)
    late:NAME   the operator NAME starts well and fails while it runs: the next synchronisation returns the code
                (default 507015, an exception of the AI core)
    memory      from the N-th on, every allocation of device memory fails (default 207001)
    device      the device disappears at the N-th operator: every call from then on returns the code (default 507010,
                the heartbeat is lost)
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

_ENTRY = re.compile(r"(?P<late>late:)?(?P<what>\w+)(@(?P<time>[1-9]\d*))?(=(?P<code>[1-9]\d*))?")
_CODES = {"memory": 207001, "device": 507010}
_REFUSES, _FAILS_LATE = 561000, 507015


@dataclass
class Plan:
    """Error codes by what fails and at which time, and how often each was asked so far."""

    codes: dict[tuple[str, int], int] = field(default_factory=dict)
    _asked: Counter[str] = field(default_factory=Counter)
    _gone: int = 0
    _full: int = 0

    @classmethod
    def parse(cls, text: str) -> Plan:
        """ValueError where an entry is not of the form above."""
        codes: dict[tuple[str, int], int] = {}
        for entry in filter(None, text.split(",")):
            found = _ENTRY.fullmatch(entry)
            if not found:
                raise ValueError(
                    f"{entry!r} is not a fault; it should look like aclnnMm@3=561000, late:aclnnMm or memory@20"
                )
            what = (found["late"] or "") + found["what"]
            usual = _FAILS_LATE if found["late"] else _CODES.get(what, _REFUSES)
            codes[what, int(found["time"] or 1)] = int(found["code"] or usual)
        return cls(codes)

    def refusal(self, name: str) -> int:
        """The code with which this call of an operator fails at once, or 0. Counts towards the device's end."""
        self._gone = self._now("device") or self._gone
        return self._gone or self._now(name)

    def late(self, name: str) -> int:
        return self._now(f"late:{name}")

    def allocation(self) -> int:
        self._full = self._now("memory") or self._full
        return self._gone or self._full

    def gone(self) -> int:
        """The code of everything once the device has disappeared, 0 while it is there."""
        return self._gone

    def _now(self, what: str) -> int:
        self._asked[what] += 1
        return self.codes.get((what, self._asked[what]), 0)
