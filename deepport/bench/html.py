"""A benchmark as one page that needs nothing else."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from deepport.bench import plot
from deepport.bench.result import Figure, Report
from deepport.bench.terminal import percent, rate, times, who
from deepport.command.render import scaled
from deepport.report.pages import environment


def render(report: Report) -> str:
    """The page."""
    wholes = [f for f in report.figures if f.kind != "operator"]
    context: dict[str, Any] = {
        "report": report,
        "headline": _headline(report, wholes),
        "wholes": wholes,
        "operators": [f for f in report.figures if f.kind == "operator"],
        "peers": list(dict.fromkeys(a.peer for f in report.figures for a in f.against)),
        # Escaped by matplotlib.
        "plots": {n: Markup(getattr(plot, n)(report)) for n in ("bars", "depths", "roofline")},
    }
    return _environment().get_template("bench.html").render(context)


def _headline(report: Report, wholes: list[Figure]) -> str:
    """The most that one sentence can say."""
    if report.implausible:
        return f"Not to be believed: {report.implausible[0]}"
    parts = [f"{f.name} {f.kind}s {rate(f)} ({f.label})" if f.kind == "decode" else f"{f.name} reads {rate(f)} ({f.label})"
             for f in wholes]  # fmt: skip
    return "; ".join(parts) if parts else f"{len(report.figures)} figures of operators"


def _ratio(figure: Figure, peer: str) -> str:
    return next((times(a.ratio) for a in figure.against if a.peer == peer), "")


@cache
def _environment() -> Environment:
    made = environment("deepport.bench")
    made.filters |= {"percent": percent, "rate": rate, "who": who, "scaled": scaled, "ratio": _ratio}
    return made
