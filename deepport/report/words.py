"""Numbers and foreign text, as every rendering writes them."""

from __future__ import annotations

import math
import unicodedata

from deepport.command.render import scaled
from deepport.conformance.result import Gate

LONGEST = 2000
"""Characters of a reason that are shown; the file has all of it."""

_HIDDEN = frozenset(("Cc", "Cf", "Cs", "Co", "Zl", "Zp"))
"""Categories that draw nothing, or steer a terminal or the direction of text."""


def printable(text: str, limit: int = LONGEST) -> str:
    """One line in which every character can be seen and none can act: no terminal's escapes, no line ends, no reversed text."""
    if len(text) > limit:
        return f"{printable(text[:limit])} ... ({len(text):,} characters)"
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(c) if unicodedata.category(c) in _HIDDEN else c for c in text)


def _escape(character: str) -> str:
    return " " if character in "\n\t" else character.encode("unicode_escape").decode("ascii")


def count(number: int, noun: str) -> str:
    """`1 case`, `1,500 cases`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def number(value: float) -> str:
    """Whole numbers in full, others with three digits."""
    return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e6 else f"{value:.3g}"


def share(margin: float) -> str:
    """How much of its bound a measurement uses: `42%`, and past the bound `7.5x`."""
    if math.isinf(margin):
        return "inf" if margin > 0 else "0%"
    return f"{margin:.3g}x" if margin > 1 else f"{100 * max(margin, 0.0):.3g}%"


def duration(seconds: float) -> str:
    """`1.2 ms`; `-` where nothing was timed."""
    if seconds >= 1:
        return scaled(seconds, "s")
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us" if seconds > 0 else "-"


def measured(gate: Gate) -> str:
    """A gate in one line: which, of what, its value against its bound, and where."""
    sign = ">" if gate.status == "fail" else "<="
    value = f" {number(gate.value)}" if gate.value is not None else ""
    bound = f" {sign} {number(gate.bound)}" if value and gate.bound is not None else ""
    detail = f" ({printable(gate.detail)})" if gate.detail else ""
    return f"{gate.gate} {printable(gate.metric)}{value}{bound}{detail}"
