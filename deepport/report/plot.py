"""Every measurement as a share of its bound."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deepport.conformance.result import Gate, Report
from deepport.report.drawing import BAD, GOOD, INK, LINE, MUTED, drawing, svg, unboxed
from deepport.report.words import printable, share

LEAST, MOST = 1e-4, 1e3
"""Shares at the edges; what is beyond is drawn on the edge."""

_PER_DECADE = 30
"""Places of passing points: closer ones would cover each other."""

_SHAPES = {"G0": "s", "G1": "s", "G2": "o", "G3": "D", "G4": "^", "G5": "P", "G6": "*"}
NAMES = {
    "G0": "exact",
    "G1": "contract",
    "G2": "own error",
    "G3": "locality",
    "G4": "bias",
    "G5": "selection",
    "G6": "composition",
}

Points = Mapping[tuple[str, str, bool], set[float]]
"""Where to draw: shares by operator, gate, and whether it passes."""


def margins(report: Report) -> str:
    """The SVG, one row for each operator, the one nearest to its bound on top; "" where nothing was measured."""
    points: dict[tuple[str, str, bool], set[float]] = defaultdict(set)
    worst: dict[str, float] = defaultdict(float)
    for operator, gate, margin in _measurements(report):
        passes = gate.status == "pass"
        points[operator, gate.gate, passes].add(_placed(margin, passes))
        worst[operator] = max(worst[operator], margin)
    if not points:
        return ""
    rows = sorted(worst, key=lambda o: (worst[o], o))
    height = 0.3 * len(rows)
    with drawing():
        figure = Figure(figsize=(9.2, 1.1 + height))
        axes = figure.add_axes((0.19, 0.62 / (1.1 + height), 0.74, height / (1.1 + height)))
        _frame(axes, [(printable(o, 40), share(worst[o])) for o in rows], [x for xs in points.values() for x in xs])
        _draw(axes, points, rows)
        return svg(figure, "Every measurement as a share of its bound, by operator")


def _measurements(report: Report) -> Iterator[tuple[str, Gate, float]]:
    for r in report.results:
        for g in r.gates:
            # Without a bound above zero there are no shares: bits are equal, or they are not.
            if g.margin is not None and g.status != "not applicable" and g.bound:
                yield r.operator, g, g.margin


def _placed(margin: float, passes: bool) -> float:
    inside = min(max(margin, LEAST), MOST)
    # Never onto the bound from below; and a failing point is not moved at all.
    return 10 ** (math.floor(math.log10(inside) * _PER_DECADE) / _PER_DECADE) if passes else inside


def _frame(axes: Axes, rows: list[tuple[str, str]], shares: list[float]) -> None:
    left, right = math.floor(math.log10(min(shares))), max(1, math.ceil(math.log10(max(shares))))
    left, right = max(left, round(math.log10(LEAST))), min(right, round(math.log10(MOST)))
    axes.set_xscale("log")
    axes.set_xlim(10**left / 1.3, 10**right * 1.3)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    ticks = [10.0**i for i in range(left, right + 1)]
    axes.set_xticks(ticks, [_tick(t) for t in ticks], color=MUTED)
    axes.minorticks_off()
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], color=INK)
    axes.tick_params(length=0, pad=6)
    for i, (_, last) in enumerate(rows):
        axes.axhline(i, color=LINE, linewidth=0.8, zorder=0)
        axes.text(1.015, i, last, transform=axes.get_yaxis_transform(), va="center", color=MUTED)
    axes.axvline(1.0, color=BAD, linewidth=1.2, zorder=1)
    axes.set_xlabel("share of the bound that is used", color=MUTED)
    unboxed(axes)


def _tick(value: float) -> str:
    edge = {LEAST: "at most ", MOST: "at least "}.get(value, "")
    return "the bound" if value == 1 else edge + (f"{value:g}x" if value > 1 else f"{value * 100:g}%")


def _draw(axes: Axes, points: Points, rows: list[str]) -> None:
    gates = sorted({gate for _, gate, _ in points})
    for i, gate in enumerate(gates):
        lane = 0.0 if len(gates) == 1 else 0.3 - 0.6 * i / (len(gates) - 1)
        for passes in (True, False):
            places = [
                (x, rows.index(o) + lane) for (o, g, p), xs in points.items() if (g, p) == (gate, passes) for x in xs
            ]
            _scatter(axes, places, _SHAPES[gate] if passes else "X", passes)
        axes.plot(
            [], [], linestyle="none", marker=_SHAPES[gate], color=GOOD, markersize=4.5, label=f"{gate} {NAMES[gate]}"
        )
    if any(not passes for _, _, passes in points):
        axes.plot([], [], linestyle="none", marker="X", color=BAD, markersize=6, label="past the bound")
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=8,
        frameon=False,
        labelcolor=MUTED,
        handletextpad=0.1,
        columnspacing=1.2,
    )


def _scatter(axes: Axes, places: Iterable[tuple[float, float]], marker: str, passes: bool) -> None:
    if found := list(places):
        style: dict[str, Any] = (
            {"color": GOOD, "markersize": 3.4, "alpha": 0.6} if passes else {"color": BAD, "markersize": 6.5}
        )
        axes.plot(*zip(*found, strict=True), linestyle="none", marker=marker, markeredgewidth=0, clip_on=False, **style)
