"""The terminal, JUnit XML and Markdown: nothing is hidden, nothing is called passed that is not, and foreign text cannot act."""

import io
import re
from collections import Counter
from xml.etree import ElementTree

import pytest
from report import reports

from deepport.conformance.result import CaseKey, Report, Result, Status
from deepport.report import facts, junit, markdown, terminal, words


def shown(report: Report) -> str:
    out = io.StringIO()
    terminal.render(report, out)
    return out.getvalue()


def test_the_headline_comes_first() -> None:
    assert shown(reports.references()).splitlines()[0] == (
        "npu on AMD EPYC 9B14 conforms, profile bring-up: 258 of 258 required cases pass, as references (plain torch): "
        "no kernel of npu was tested; E5, executed on the chip"
    )


def test_it_is_short_where_all_is_well() -> None:
    assert len(shown(reports.references()).splitlines()) < 40


def test_power_is_told() -> None:
    text = shown(reports.conforming())
    assert "39 of 39 mutants killed (G0 9, G1 9, G2 10, G3 11)" in text
    assert "1,032 of 1,032 null kernels killed" in text
    assert "12 kernels answered 138 cases; the spy saw 258 calls go to whom the report names, 0 not" in text


def test_every_trouble_is_told() -> None:
    report, text = reports.troubled(), shown(reports.troubled())
    for r in report.results:
        if r.status in ("fail", "error", "timeout"):
            assert f"{r.status.upper()} {r.id}: {r.operator} {r.dtype}" in text
            assert r.command in text
    assert "G2 rms of output 0 0.018 > 0.0024 (output 0, row 3" in text
    assert "PROBLEM mutant linear/dropped_row: survived 12 cases: one row in 4,096 is zero" in text
    assert "PROBLEM problem: gap 'rotary: inverse' matches no case" in text
    assert re.search(
        r"sparse_attention +1 +notyet: head size 512 needs firmware 9.1 \(until 2027-06-30\) +https://example.org/issues/12",
        text,
    )
    assert re.search(r"quantize +1 +format: the device has no FP8", text)
    assert re.search(r"119 +dtype: float64 is not taken +17 ", text)


def test_of_very_many_failures_the_rest_is_counted() -> None:
    assert "1,475 more fail" in shown(reports.many(failing=True))


def test_a_changed_file_and_a_run_cut_short_are_told() -> None:
    report = reports.conforming().model_copy(update={"seconds": 1.0, "complete": False, "stopped": "interrupted"})
    assert "PROBLEM run: is not complete: interrupted" in shown(report)
    assert "PROBLEM file: was changed after the run" in shown(report)


@pytest.mark.parametrize(
    ("status", "serving", "text"),
    [
        ("pass", True, "2 by both"),
        ("fail", True, "1 of 3 fail"),
        ("fail", False, "1 of 3 fail"),
        ("timeout", True, "1 of 3 fail"),
        ("unsupported", True, "1 of 3 unsupported"),
        ("gap", True, "1 of 3 a gap"),
        ("not_run", True, "1 of 3 not run"),
    ],
)
def test_a_cell_shows_the_worst_of_its_results(status: Status, serving: bool, text: str) -> None:
    results = [reports.result(label="a"), reports.result(label="b", kernel="cpu/k")]
    if status != "pass":
        results.append(reports.result(label="c", kernel="cpu/k", status=status, serving=serving))
    assert facts.matrix(reports.report(results)).rows["linear"]["float32"].text == text


def test_a_cell_without_a_failure_does_not_count_kernels_that_do_not_serve() -> None:
    results = [reports.result(), reports.result(kernel="cpu/k", serving=False)]
    assert facts.matrix(reports.report(results)).rows["linear"]["float32"].text == "1 by reference"


def test_a_case_that_was_never_drawn_has_a_column() -> None:
    found = facts.matrix(
        reports.report([reports.result(), reports.result(status="error").model_copy(update={"dtype": ""})])
    )
    assert found.dtypes == ("float32", "dtype unknown")


def test_gaps_are_grouped_by_what_was_declared() -> None:
    def gap(i: int) -> Result:
        reason = f"never: no float64 (this chip has none) (until 2030-01-01); G2 rms: {i}, bound 1"
        return reports.result(label=f"T={i}", status="gap", reason=reason)

    (group,) = facts.by_reason([gap(1), gap(2)])
    assert (group.reason, group.kind, len(group.results)) == (
        "never: no float64 (this chip has none) (until 2030-01-01)",
        "cannot be",
        2,
    )


def test_a_reason_that_is_the_gate_again_is_told_once() -> None:
    found = reports.result(
        status="fail", gates=(reports.FAILING_GATE,), reason="G2 rms of output 0: 0.018, bound 0.0024; row 3"
    )
    assert facts.why(found) == ("G2 rms of output 0 0.018 > 0.0024 (row 3, index [3, 17])",)


def test_a_whole_model_is_no_kernel() -> None:
    case = CaseKey(grid="model", label="tiny float32", builder="model", parameters={})
    found = facts.power(
        reports.report([reports.result("model", kernel="cpu/kernels", case=case), reports.result(kernel="cpu/k")])
    )
    assert dict(found.ran) == {("linear", "cpu/k"): 1}


def test_what_is_no_number_is_worst() -> None:
    worst = [r.operator for r, _ in facts.worst(reports.troubled())]
    assert set(worst[:2]) == {"swiglu", "rotary"}


@pytest.mark.parametrize(
    ("margin", "text"),
    [(0.0, "0%"), (-0.2, "0%"), (0.421, "42.1%"), (1.0, "100%"), (7.5, "7.5x"), (float("inf"), "inf")],
)
def test_share(margin: float, text: str) -> None:
    assert words.share(margin) == text


def test_foreign_text_cannot_steer_a_terminal() -> None:
    text = shown(reports.hostile())
    assert not set(text) & {"\x1b", "\x07", "\r", "\u202e", "\u2028"}
    assert "\\x1b[31mred" in text
    assert "\\u202egnp.exe" in text


def test_long_text_is_cut_and_says_so() -> None:
    assert words.printable("x" * 5000) == "x" * 2000 + " ... (5,000 characters)"


def test_junit_counts_only_passes_as_passed() -> None:
    report = reports.troubled()
    suite = ElementTree.fromstring(junit.render(report))
    cases = suite.findall("testcase")
    bare = [c for c in cases if not list(c)]
    statuses = Counter(r.status for r in report.results)
    assert len(bare) == statuses["pass"]
    assert len(cases) == len(report.results) + 2  # a surviving mutant, and a problem
    assert suite.attrib["tests"] == str(len(cases))
    assert suite.attrib["failures"] == str(statuses["fail"] + statuses["unsupported"] + 2)
    assert suite.attrib["errors"] == str(statuses["error"] + statuses["timeout"])
    assert suite.attrib["skipped"] == str(statuses["gap"] + statuses["not_run"])


def test_junit_names_the_reason_the_gate_and_the_command() -> None:
    suite = ElementTree.fromstring(junit.render(reports.troubled()))
    failure = next(c for c in suite.iter("testcase") if "cpu/onednn" in c.attrib["name"])[0]
    assert failure.attrib["message"].endswith(
        "got 1.25, expected 1.125); rms error 7.5 times the bound: the kernel accumulates in bfloat16"
    )
    assert failure.text is not None
    assert failure.text.splitlines()[0].startswith("G2 rms of output 0 0.018 > 0.0024")
    assert failure.text.splitlines()[-1].startswith("deepport repro linear-")
    assert {p.attrib["name"] for p in suite.iter("property")} >= {"verdict", "power", "evidence", "torch", "os"}


def test_junit_of_nothing_fails() -> None:
    suite = ElementTree.fromstring(junit.render(reports.report([])))
    assert suite.attrib["failures"] == "1"


def test_junit_holds_any_text() -> None:
    suite = ElementTree.fromstring(junit.render(reports.hostile()))
    assert "\\x1b[31mred" in suite.attrib["name"]
    assert suite.find(".//script") is None


def test_markdown_has_headline_power_table_failures_and_gaps() -> None:
    text = markdown.render(reports.troubled())
    assert text.startswith("**cpu on AMD EPYC 9B14 does not conform")
    assert "Power: 38 of 39 mutants killed (G0 9, G1 9, G2 10, G3 10); 1,052 of 1,052 null kernels killed." in text
    assert (
        "| operator | float32 | bfloat16 | int64 |\n| --- | --- | --- | --- |\n| block\\_linear | ● 6 by kernels |"
        in text
    )
    assert "| linear | ○ 6 by reference | ✗ 1 of 7 fail |  |" in text
    assert "### 6 failures" in text
    assert (
        "| sparse\\_attention | 1 | notyet: head size 512 needs firmware 9.1 (until 2027-06-30) | <https://exam" in text
    )


def test_foreign_text_is_no_markdown() -> None:
    text = markdown.render(reports.hostile())
    assert not re.search(r"(?<!\\)<(?!https?:)", text)
    assert "\\[link\\](javascript:" in text
    assert "[link](" not in text.replace("\\[link\\](", "")
    table = [line for line in text.splitlines() if line.startswith("|")]
    # A `|` in a name begins no cell.
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table[:3]}) == 1
