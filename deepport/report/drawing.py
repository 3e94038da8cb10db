"""Plots as SVG that is text, small, the same each time, and dark where the page is."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from markupsafe import escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Colours are the page's: each stands for a variable of its style sheet, put in its place when all is drawn.
INK, MUTED, LINE, GOOD, BAD, GAP = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
_VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", GOOD: "good", BAD: "bad", GAP: "gap"}
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and has the page's font
    "svg.hashsalt": "deepport",
    "font.size": 9,
    "text.parse_math": False,  # `$` in a name is no formula
    "axes.unicode_minus": False,
}


@contextmanager
def drawing() -> Iterator[None]:
    """Figures are made and drawn inside."""
    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a letter that matplotlib's fonts lack; the page's may have it
        yield


def frame(axes: Axes, x: str, y: str = "", grid: Literal["both", "x"] = "both") -> None:
    """Names on the axes, no box, and a light grid behind."""
    axes.set_xlabel(x, color=MUTED)
    axes.set_ylabel(y, color=MUTED)
    axes.minorticks_off()
    axes.tick_params(length=0, pad=6, labelcolor=MUTED)
    axes.grid(visible=True, axis=grid, color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    unboxed(axes)


def unboxed(axes: Axes) -> None:
    for spine in axes.spines.values():
        spine.set_visible(False)


def svg(figure: Figure, label: str) -> str:
    """The figure, to stand in a page; `label` says what it shows to who cannot see it."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _embedded(text.getvalue(), label)


def _embedded(svg: str, label: str) -> str:
    """Without what only a file of its own needs, and with the page's colours and font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' (width|height)="[0-9.]+pt"', "", svg, count=2)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: ([0-9.]+px)[^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    for colour, name in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
