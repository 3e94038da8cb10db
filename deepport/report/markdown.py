"""A report as Markdown: for a README or a comment on a change."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from deepport.conformance.result import Report, Status
from deepport.conformance.verdict import Verdict, verdict
from deepport.report import facts
from deepport.report.words import count, printable

_MOST = 50
"""Failures that are listed; a comment has a largest size."""

_MARKUP = re.compile(r"([\\`*_\[\]<>#|~@&$])")
_LINK = re.compile(r"https?://[^\s<>|\\`\"]+")


def render(report: Report) -> str:
    """Headline, power, operators by dtypes, failures, gaps."""
    judged = verdict(report)
    parts = [
        f"**{text(judged.headline)}**",
        _power(report, judged),
        table(report),
        _failures(report),
        _problems(report),
        *(_reasons(title, facts.by_reason(facts.with_status(report, status))) for title, status in _REASONS),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_REASONS: tuple[tuple[str, Status], ...] = (
    ("Gaps", "gap"),
    ("Unsupported", "unsupported"),
    ("Not run", "not_run"),
)


def table(report: Report) -> str:
    """Operators by dtypes, with what the symbols mean."""
    found = facts.matrix(report)
    if not found.rows:
        return "No case was run."
    rows = [
        [f"{text(o)}", *(f"{facts.SYMBOLS[c.state]} {c.text}" if (c := row.get(d)) else "" for d in found.dtypes)]
        for o, row in found.rows.items()
    ]
    meanings = " · ".join(f"{facts.SYMBOLS[s]} {facts.MEANINGS[s]}" for s in found.states)
    return f"{_table(['operator', *map(text, found.dtypes)], rows)}\n\n{meanings}"


def text(foreign: str) -> str:
    """Foreign text that is only text: nothing in it is markup, HTML, a link or a mention."""
    return _MARKUP.sub(r"\\\1", printable(foreign, 400)).replace("\\@", "@\u200b").replace("://", ":\u200b//")


def _power(report: Report, judged: Verdict) -> str:
    found = facts.power(report)
    gates = ", ".join(f"{gate} {n}" for gate, n in found.by_gate.items())
    fates = found.null_fates
    nulls = f"{fates['killed']:,} of {fates['killed'] + fates['survived']:,} null kernels killed"
    return f"Power: {judged.kill_rate}{f' ({gates})' if gates else ''}; {nulls if fates else 'no null kernel was run'}."


def _failures(report: Report) -> str:
    found = facts.failures(report)
    if not found:
        return ""
    rows = [
        [
            r.status,
            text(r.operator),
            text(r.case.label),
            text(r.implementation),
            text("; ".join(facts.why(r))),
            text(r.command),
        ]
        for r in found[:_MOST]
    ]
    more = f"\n\n{len(found) - _MOST} more are in the report." if len(found) > _MOST else ""
    return f"### {count(len(found), 'failure')}\n\n{_table(['', 'operator', 'case', 'by', 'why', 'again'], rows)}{more}"


def _problems(report: Report) -> str:
    lines = [f"- {text(subject)}: {text(what)}" for subject, what in facts.problems(report)]
    return "### Problems\n\n" + "\n".join(lines) if lines else ""


def _reasons(title: str, groups: list[facts.Group]) -> str:
    if not groups:
        return ""
    rows = [[text(g.operator), str(len(g.results)), text(g.reason), _link(g.link)] for g in groups]
    return f"### {title}\n\n{_table(['operator', 'cases', 'reason', 'link'], rows)}"


def _link(url: str) -> str:
    return f"<{url}>" if _LINK.fullmatch(url) and len(url) < 400 else text(url)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows))
