"""A report on a terminal: the verdict first, then what backs it, then whatever is not right. Short when all is well."""

from __future__ import annotations

from typing import TextIO

from deepport.command.render import fields, show
from deepport.conformance.result import Report, Result
from deepport.conformance.verdict import Verdict, verdict
from deepport.report import facts
from deepport.report.words import count, duration, measured, printable, share

_MOST, _MOST_FAILURES = 5, 25


def render(report: Report, file: TextIO) -> None:
    """Write the report to a terminal or a pipe."""
    judged = verdict(report)
    file.write(f"{printable(judged.headline)}\n")
    file.write("\n")
    fields(_power(report, judged), file)
    _matrix(report, file)
    _problems(report, file)
    _failures(report, file)
    _reasons("gaps", facts.by_reason(facts.with_status(report, "gap")), file)
    _reasons("unsupported", facts.by_reason(facts.with_status(report, "unsupported")), file)
    _reasons("not run", facts.by_reason(facts.with_status(report, "not_run")), file)
    _refusals(report, file)
    _extremes(report, file)


def _power(report: Report, judged: Verdict) -> list[tuple[str, str]]:
    found = facts.power(report)
    gates = ", ".join(f"{gate} {n}" for gate, n in found.by_gate.items())
    fates = found.null_fates
    nulls = f"{fates['killed']:,} of {fates['killed'] + fates['survived']:,} null kernels killed"
    kernels = f"{count(len(found.ran), 'kernel')} answered {count(sum(found.ran.values()), 'case')}"
    spied = f"; the spy saw {found.watched['pass']:,} calls go to whom the report names, {found.watched['fail']:,} not"
    return [
        ("power", judged.kill_rate + (f" ({gates})" if gates else "")),
        ("", nulls if fates else "no null kernel was run"),
        ("", kernels + (spied if found.watched else "")),
    ]


def _matrix(report: Report, file: TextIO) -> None:
    found = facts.matrix(report)
    rows = [(printable(o), *(row[d].text if d in row else "" for d in found.dtypes)) for o, row in found.rows.items()]
    if rows:
        file.write("\n")
        show(("operator", *map(printable, found.dtypes)), rows, file)


def _failures(report: Report, file: TextIO) -> None:
    found = facts.failures(report)
    for result in found[:_MOST_FAILURES]:
        lines = [("why", printable(text)) for text in facts.why(result)]
        file.write(f"\n{_title(result)}\n")
        fields(((f"  {name}", text) for name, text in [*lines, ("again", printable(result.command))]), file)
    if len(found) > _MOST_FAILURES:
        file.write(
            f"\n{len(found) - _MOST_FAILURES:,} more fail; deepport report show FILE --html PAGE lists them all\n"
        )


def _title(r: Result) -> str:
    serves = "" if r.serving else ", which does not serve it"
    words = {"fail": "FAIL", "error": "ERROR", "timeout": "TIMEOUT"}
    return printable(f"{words[r.status]} {r.id}: {r.operator} {r.dtype}, {r.case.label}, by {r.implementation}{serves}")


def _problems(report: Report, file: TextIO) -> None:
    if found := facts.problems(report):
        file.write("\n")
        file.writelines(f"PROBLEM {printable(subject)}: {printable(text)}\n" for subject, text in found)


def _reasons(title: str, groups: list[facts.Group], file: TextIO) -> None:
    if groups:
        rows = [(printable(g.operator), str(len(g.results)), printable(g.reason), printable(g.link)) for g in groups]
        file.write("\n")
        show((title, ">cases", "reason", "link"), rows, file)


def _refusals(report: Report, file: TextIO) -> None:
    rows = [
        (f"{n:,}", printable(reason), f"{len(by):,}", printable(by[0]) + (", ..." if len(by) > 1 else ""))
        for n, reason, by in facts.refusals(report)[:_MOST]
    ]
    if rows:
        file.write("\n")
        show((">refused", "because", ">kernels", ""), rows, file)


def _extremes(report: Report, file: TextIO) -> None:
    worst = [
        (
            share(g.margin or 0.0),
            printable(r.operator),
            printable(r.case.label, 80),
            printable(r.implementation),
            measured(g),
        )
        for r, g in facts.worst(report, _MOST)
    ]
    slowest = [
        (duration(r.seconds), printable(r.operator), printable(r.case.label, 80), printable(r.implementation))
        for r in facts.slowest(report, _MOST)
    ]
    for columns, rows in (
        ((">bound used", "operator", "case", "by", "gate"), worst),
        ((">slowest", "operator", "case", "by"), slowest),
    ):
        if rows:
            file.write("\n")
            show(columns, rows, file)
