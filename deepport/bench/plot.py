"""A run in pictures: the roofline, times over those of peers, time by depth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from deepport.bench.peak import MEMORY
from deepport.bench.result import Report
from deepport.report.drawing import BAD, GAP, GOOD, INK, MUTED, drawing, frame, svg
from deepport.report.words import duration, printable

_COLOURS = (BAD, GAP, MUTED)
"""Of peers."""


def roofline(report: Report) -> str:
    """Arithmetic a second by arithmetic a byte, under the roofs that were probed; "" where there is nothing to draw."""
    figures = [f for f in report.figures if f.flops and f.bytes]
    roofs = {limit.name: limit.rate.median for limit in report.limits}
    gemms = {name: rate for name, rate in roofs.items() if name.startswith("gemm")}
    if not figures or MEMORY not in roofs or not gemms:
        return ""
    with drawing():
        canvas = Canvas(figsize=(9.2, 4.6))
        axes = canvas.add_axes((0.09, 0.12, 0.88, 0.8))
        _roofs(axes, [f.flops / f.bytes for f in figures], roofs[MEMORY], gemms)
        for cold, marker, face in ((True, "o", GOOD), (False, "o", "none")):
            points = [f for f in figures if (f.memory == "cold") == cold]
            axes.plot(
                [f.flops / f.bytes for f in points], [f.flops / f.seconds.median for f in points], linestyle="none",
                marker=marker, markersize=4.5, markerfacecolor=face, markeredgecolor=GOOD,
                label="cold" if cold else "warm: may lie in a cache, and pass the slope",
            )  # fmt: skip
        axes.legend(loc="lower right", frameon=False, labelcolor=MUTED)
        frame(axes, "flop a byte", "flop/s")
        return svg(canvas, "Arithmetic a second by arithmetic a byte, under the limits of this device")


def _roofs(axes: Axes, intensities: Sequence[float], bandwidth: float, gemms: dict[str, float]) -> None:
    low, high = min(intensities) / 2, max(*intensities, *(rate / bandwidth for rate in gemms.values())) * 2
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    for name, rate in gemms.items():
        ridge = rate / bandwidth
        axes.plot([low, ridge, high], [low * bandwidth, rate, rate], color=INK, linewidth=1)
        axes.annotate(name, (high, rate), (-4, 3), textcoords="offset points", ha="right", color=MUTED)
    axes.annotate(MEMORY, (low, low * bandwidth), (4, 10), textcoords="offset points", color=MUTED)


def bars(report: Report) -> str:
    """Peers' times over ours, of whole models; "" where there was no peer."""
    figures = [f for f in report.figures if f.kind != "operator" and f.against]
    if not figures:
        return ""
    peers = list(dict.fromkeys(a.peer for f in figures for a in f.against))
    with drawing():
        height = 0.28 * len(figures) * (len(peers) + 0.6)
        canvas = Canvas(figsize=(9.2, 0.8 + height))
        axes = canvas.add_axes((0.27, 0.5 / (0.8 + height), 0.66, height / (0.8 + height)))
        for i, peer in enumerate(peers):
            found = [(y, a) for y, f in enumerate(figures) for a in f.against if a.peer == peer]
            places = [y + 0.25 * (i - (len(peers) - 1) / 2) for y, _ in found]
            ratios = [a.ratio for _, a in found]
            spans = [[r.median - r.low for r in ratios], [r.high - r.median for r in ratios]]
            axes.barh(
                places, [r.median for r in ratios], 0.2, color=_COLOURS[i % 3], label=peer, xerr=spans, ecolor=INK
            )
            for y, r in zip(places, ratios, strict=True):
                axes.text(r.high, y, f" {r.median:.2f}x", va="center", color=MUTED)
        axes.set_yticks(range(len(figures)), [printable(f"{f.kind}: {f.label}", 44) for f in figures], color=INK)
        axes.axvline(1.0, color=GOOD, linewidth=1.2)
        axes.set_ylim(len(figures) - 0.4, -0.6)
        axes.legend(loc="lower right", frameon=False, labelcolor=MUTED)
        frame(axes, "a peer's time over ours; the line is ours", "")
        return svg(canvas, "Peers' times over ours")


def depths(report: Report) -> str:
    """Seconds of a decoded token by the tokens before it, with quartiles; "" for fewer than two depths."""
    lines: dict[str, list[tuple[int, float, float, float]]] = defaultdict(list)
    for f in sorted((f for f in report.figures if f.kind == "decode"), key=lambda f: f.depth):
        for who, s in (("deepport", f.seconds), *((a.peer, a.seconds) for a in f.against)):
            lines[who].append((f.depth, s.median, s.low, s.high))
    if max(map(len, lines.values()), default=0) < 2:
        return ""
    with drawing():
        canvas = Canvas(figsize=(9.2, 3.6))
        axes = canvas.add_axes((0.09, 0.16, 0.82, 0.76))
        for (who, points), colour in zip(lines.items(), (GOOD, *_COLOURS), strict=False):
            x, y, low, high = (list(column) for column in zip(*points, strict=True))
            axes.plot(x, y, color=colour, marker="o", markersize=4)
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.annotate(who, (x[-1], y[-1]), (6, 0), textcoords="offset points", va="center", color=colour)
        axes.set_xscale("log", base=2)
        axes.set_xticks([p[0] for p in lines["deepport"]], [f"{p[0]:,}" for p in lines["deepport"]])
        axes.set_ylim(0)
        axes.set_yticks(axes.get_yticks(), [duration(t) if t > 0 else "0" for t in axes.get_yticks()])
        frame(axes, "tokens before", "one token")
        return svg(canvas, "Time of a decoded token by the tokens before it")
