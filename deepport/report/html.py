"""A report as one page that needs nothing else: no network, no framework, and all of it there without its script."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from deepport.conformance.result import EVIDENCE, Evidence, Report, Result
from deepport.conformance.verdict import Word, verdict
from deepport.report import facts, words
from deepport.report.pages import environment
from deepport.report.plot import NAMES, margins

_SYMBOLS: dict[Word, str] = {"conforms": "✓", "conforms with gaps": "△", "does not conform": "✗", "incomplete": "…"}

_PROOF: dict[Evidence, str] = {
    "E1": "Schemas were compared and nothing was executed: whether any number is right is not known.",
    "E2": "The vendor's own functions agree on shapes. Nothing was executed: whether any number is right is not known.",
    "E3": "The vendor's compiler accepts the kernels. Nothing was executed: whether any number is right is not known.",
    "E4": "Numbers come from an interpreter or a simulator, not from the chip. They are checked; times mean nothing.",
    "E5": "Numbers were computed by the chip itself.",
}

_GATES = {
    "G0": "ids, hashes and copies are equal bit for bit",
    "G1": "shapes are right, nothing outside is read or written, the same call gives the same bits",
    "G2": "errors against float64 are no larger than a careful implementation's own, times a stated factor",
    "G3": "no single row is much worse than the rest",
    "G4": "errors do not lean to one side",
    "G5": "of what was selected, nothing was clearly worse than what was not",
    "G6": "over a whole model, errors grow no faster and the same tokens win",
}

_SHOWN: dict[str, str] = {
    "pass": "✓ pass",
    "fail": "✗ fail",
    "error": "✗ error",
    "timeout": "✗ timeout",
    "gap": "△ gap",
    "unsupported": "⊘ unsupported",
    "not_run": "… not run",
    "killed": "✓ killed",
    "survived": "✗ survived",
    "equivalent": "= equivalent",
}


def render(report: Report) -> str:
    """The page."""
    found = facts.matrix(report)
    context: dict[str, Any] = {
        "report": report,
        "verdict": verdict(report),
        "summary": _summary(found),
        "matrix": found,
        "power": facts.power(report),
        "problems": facts.problems(report),
        "failures": facts.failures(report),
        "gaps": facts.by_reason(facts.with_status(report, "gap")),
        "unsupported": facts.by_reason(facts.with_status(report, "unsupported")),
        "not_run": facts.by_reason(facts.with_status(report, "not_run")),
        "worst": facts.worst(report),
        "slowest": facts.slowest(report),
        "refusals": facts.refusals(report),
        "levels": sorted({r.evidence for r in report.results}),
        "plot": Markup(margins(report)),  # escaped by matplotlib
    }
    return _environment().get_template("page.html").render(context)


_ORDER: tuple[facts.State, ...] = ("kernels", "both", "reference", "gap", "not run", "unsupported", "fails")


def _summary(found: facts.Matrix) -> dict[facts.State, list[str]]:
    """Operators by their state over all dtypes, the worst of them; what works comes first."""
    states = {o: _over({c.state for c in row.values()}) for o, row in found.rows.items()}
    return {state: [o for o, s in states.items() if s == state] for state in _ORDER}


def _over(states: set[facts.State]) -> facts.State:
    worst = max(states, key=_ORDER.index)
    return "both" if worst == "reference" and len(states) > 1 else worst


def _used(result: Result) -> str:
    """How much of its tightest bound a result uses."""
    gate = result.worst
    if gate is None or gate.margin is None:
        applies = any(g.status == "not applicable" for g in result.gates)
        return "not applicable" if applies else "-"
    return f"{words.share(gate.margin)} {gate.gate}"


def _arguments(result: Result) -> str:
    """`x bfloat16 [8, 7168], eps 1e-06`."""
    return ", ".join(f"{name} {_argument(value)}" for name, value in result.arguments.items())


def _argument(value: Any) -> str:
    return (
        f"{value['dtype']} {value['shape']}"
        if isinstance(value, dict) and {"dtype", "shape"} <= set(value)
        else str(value)
    )


def _web(link: str) -> bool:
    """Only such a link is followed: `javascript:` is none."""
    return link.startswith(("https://", "http://"))


@cache
def _environment() -> Environment:
    script = files("deepport.report").joinpath("page", "page.js").read_text("utf-8")
    made = environment("deepport.report", script)
    made.filters |= {"measured": words.measured, "why": facts.why, "used": _used, "arguments": _arguments}
    made.tests["web"] = _web
    made.globals |= {
        "symbols": facts.SYMBOLS, "meanings": facts.MEANINGS, "verdict_symbols": _SYMBOLS, "evidence": EVIDENCE,
        "proof": _PROOF, "gates": _GATES, "gate_names": NAMES, "shown": _SHOWN, "changed": facts.CHANGED,
    }  # fmt: skip
    return made
