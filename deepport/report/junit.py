"""A report as JUnit XML, for the systems that show test results: one testcase per result, and only a pass is a pass."""

from __future__ import annotations

from collections import Counter
from xml.etree import ElementTree as Xml

from deepport.conformance.result import Report, Result, Status
from deepport.conformance.verdict import Verdict, verdict
from deepport.report import facts
from deepport.report.words import measured, printable

_TAGS: dict[Status, str] = {
    "fail": "failure",
    "error": "error",
    "timeout": "error",
    # A required case without an answer makes the verdict, so it must not look like a skipped test.
    "unsupported": "failure",
    "not_run": "skipped",
    "gap": "skipped",
}


def render(report: Report) -> str:
    """The XML. What belongs to no case (a survivor, a problem, a run cut short) is a testcase of its own that fails."""
    judged = verdict(report)
    suite = Xml.Element(
        "testsuite", name=printable(f"deepport.{report.backend}.{report.profile}"), time=f"{report.seconds:.3f}"
    )
    suite.set("timestamp", printable(report.created))
    _properties(suite, report, judged)
    for result in report.results:
        _case(suite, result)
    for name, text in facts.problems(report):
        case = Xml.SubElement(suite, "testcase", classname="deepport.suite", name=printable(name), time="0")
        Xml.SubElement(case, "failure", message=printable(text))
    tags = Counter(child.tag for case in suite.iter("testcase") for child in case)
    suite.set("tests", str(len(suite.findall("testcase"))))
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(attribute, str(tags[tag]))
    Xml.indent(suite)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{Xml.tostring(suite, encoding="unicode")}\n'


def _properties(suite: Xml.Element, report: Report, judged: Verdict) -> None:
    pairs = {
        "verdict": judged.headline,
        "power": judged.kill_rate,
        "evidence": report.evidence,
        "device": report.device.name,
        "deepport": report.deepport,
        "digest": report.digest,
        **report.environment,
    }
    parent = Xml.SubElement(suite, "properties")
    for name, value in pairs.items():
        Xml.SubElement(parent, "property", name=printable(name), value=printable(value))


def _case(suite: Xml.Element, r: Result) -> None:
    case = Xml.SubElement(suite, "testcase", classname=printable(f"deepport.{r.operator}"), time=f"{r.seconds:.6f}")
    case.set("name", printable(f"{r.case.grid}: {r.case.label} [{r.implementation}] {r.id}"))
    if r.status == "pass":
        return
    reason = printable("; ".join(facts.why(r)))
    outcome = Xml.SubElement(case, _TAGS[r.status], type=r.status, message=f"{r.status}: {reason}".removesuffix(": "))
    lines = [*(measured(g) for g in r.gates if g.status == "fail"), printable(r.link), printable(r.command)]
    outcome.text = "\n".join(line for line in lines if line)
