"""A plan as one page that needs nothing else."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from deepport.command.chips import shown
from deepport.command.render import scaled
from deepport.planning import plot, terminal
from deepport.planning.bound import operators
from deepport.planning.check import Checked
from deepport.planning.plan import ASSUMED, Plan
from deepport.report.pages import environment


def render(plan: Plan, checked: Checked | None = None) -> str:
    """The page; with what was measured beside it, where it was."""
    e = plan.estimate
    steps = [("decode", e.decode), ("prefill", e.prefill)]
    parts = [(p, e.sizes.share(p, e.devices)) for p in e.sizes.parts]
    context: dict[str, Any] = {
        "plan": plan, "fits": e.fits, "headline": terminal.headline(plan), "verdict": terminal.verdict(plan),
        "host": terminal.host(plan), "parts": parts,
        "assumed": (*ASSUMED, *terminal.of_the_chip(plan.asked.chip)),
        "steps": [
            {"name": name, "bounded": terminal.bounded(step, e.fits), "operators": operators(step.timed),
             "fetched": [terminal.fetch(f) for f in step.fetched], "plot": Markup(plot.times(step, name))}
            for name, step in steps
        ],
        "fetched": terminal.FETCHED, "what_if": terminal.WHAT_IF, "variants": [terminal.variant(v) for v in plan.variants],
        "promised": terminal.promised(plan.claims) if plan.claims else [], "memory": Markup(plot.memory(plan)),
        "numbers": list(plan.asked.chip.numbers()), "checked_heads": terminal.CHECKED,
        "checked": [terminal.checked_line(line) for line in checked.lines] if checked else [],
        "checked_operators": [terminal.checked_line(line)[:-1] for line in checked.operators] if checked else [],
    }  # fmt: skip
    return _environment().get_template("plan.html").render(context)


@cache
def _environment() -> Environment:
    made = environment("deepport.planning")
    made.filters |= {"scaled": scaled, "shown": shown}
    return made
