"""A plan in pictures: what each device holds in every variant, and what a step's time is made of."""

from __future__ import annotations

from matplotlib.figure import Figure as Canvas

from deepport.planning.bound import LAUNCH, MEMORY, UNKNOWN, operators
from deepport.planning.estimate import Estimate, Step
from deepport.planning.plan import Plan
from deepport.planning.sizes import ACTIVATIONS, KEPT, TABLES
from deepport.report.drawing import BAD, GAP, GOOD, INK, MUTED, drawing, frame, svg
from deepport.report.words import duration

_GROUPS = (("weights", GOOD), (TABLES, GAP), ("caches", BAD), (ACTIVATIONS, MUTED))
_BARS = 10


def memory(plan: Plan) -> str:
    """Bytes on a device, by class and variant, beside what it has."""
    names = [v.change or "as planned" for v in plan.variants]
    with drawing():
        height = 0.34 * len(names)
        canvas = Canvas(figsize=(9.2, 1.1 + height))
        axes = canvas.add_axes((0.2, 0.55 / (1.1 + height), 0.76, height / (1.1 + height)))
        held = [_grouped(v.estimate) for v in plan.variants]
        left = [0.0] * len(held)
        for group, colour in _GROUPS:
            widths = [h[group] / 1e9 for h in held]
            axes.barh(range(len(held)), widths, 0.6, left=left, color=colour, label=group)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        if (capacity := plan.estimate.chip.value("memory")) is not None:
            axes.axvline(capacity / 1e9, color=INK, linewidth=1.2)
            axes.annotate("has", (capacity / 1e9, -0.6), (-4, 0), textcoords="offset points", ha="right", color=INK)
        axes.set_yticks(range(len(names)), names, color=INK)
        axes.set_ylim(len(names) - 0.4, -0.9)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(_GROUPS), frameon=False, labelcolor=MUTED)
        frame(axes, "GB on each device", grid="x")
        return svg(canvas, "Memory of each device by class, in every variant of the plan")


def _grouped(e: Estimate) -> dict[str, float]:
    found = dict.fromkeys((group for group, _ in _GROUPS), 0.0)
    for part in e.sizes.parts:
        name = "weights" if part.name.startswith("weights") else ACTIVATIONS if part.name == KEPT else part.name
        found[name if name in found else "caches"] += e.sizes.share(part, e.devices)
    return found


def times(step: Step, name: str) -> str:
    """Least time of a step's operators, the slowest first; "" where nothing bounds them."""
    found = [o for o in operators(step.timed) if o.seconds][:_BARS]
    if not found:
        return ""
    colours = {MEMORY: GOOD, LAUNCH: BAD, UNKNOWN: MUTED}
    with drawing():
        height = 0.3 * len(found)
        canvas = Canvas(figsize=(9.2, 1.0 + height))
        axes = canvas.add_axes((0.24, 0.55 / (1.0 + height), 0.72, height / (1.0 + height)))
        for bound in dict.fromkeys(o.by for o in found):
            rows = [(y, o) for y, o in enumerate(found) if o.by == bound]
            lengths = [o.seconds * 1e3 for _, o in rows]
            axes.barh([y for y, _ in rows], lengths, 0.6, color=colours.get(bound, GAP), label=bound)
        for y, o in enumerate(found):
            axes.text(o.seconds * 1e3, y, f" {duration(o.seconds)}", va="center", color=MUTED)
        axes.set_yticks(range(len(found)), [o.name for o in found], color=INK)
        axes.set_ylim(len(found) - 0.4, -0.6)
        axes.legend(loc="lower right", frameon=False, labelcolor=MUTED, title="bound by")
        axes.margins(x=0.12)
        frame(axes, "ms at least", grid="x")
        return svg(canvas, f"Least time of the operators of a {name} step")
