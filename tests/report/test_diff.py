"""What changed between two reports, and what of it is a regression."""

from typing import Any

import pytest
from report import reports

from deepport.conformance.result import Gate, Report, Result, Status
from deepport.report.diff import Change, diff, grouped


def one(a: Result | None, b: Result | None, **given: Any) -> list[tuple[str, str, str]]:
    """Changes of a run with one result more, but for those of its kernels."""
    base = reports.result("rotary")
    found = diff(reports.report([base, *([a] if a else [])]), reports.report([base, *([b] if b else [])], **given))
    return [
        (c.kind, c.before, c.after)
        for c in found.changes
        if c.kind not in ("kernel", "environment") and c.what != "verdict"
    ]


def test_a_report_does_not_differ_from_itself() -> None:
    for report in (reports.conforming(), reports.troubled(), reports.hostile()):
        assert diff(report, report).changes == ()


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        ("pass", "fail", "regression"), ("pass", "gap", "regression"), ("pass", "not_run", "regression"),
        ("pass", "unsupported", "regression"), ("gap", "timeout", "regression"), ("not_run", "error", "regression"),
        ("fail", "pass", "repair"), ("gap", "pass", "repair"), ("error", "gap", "repair"), ("fail", "error", "answer"),
    ],
)  # fmt: skip
def test_a_status(before: Status, after: Status, kind: str) -> None:
    assert one(reports.result(status=before), reports.result(status=after)) == [(kind, before, after)]


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [("cpu/a", "", "regression"), ("", "cpu/a", "served"), ("cpu/a", "cpu/b", "served")],
)
def test_who_serves(before: str, after: str, kind: str) -> None:
    found = one(reports.result("moe_dispatch", kernel=before), reports.result("moe_dispatch", kernel=after))
    assert [f[0] for f in found] == [kind]


def test_a_case_that_passed_and_is_gone_is_a_regression_where_it_was_asked_for() -> None:
    assert one(reports.result(), None) == [("regression", "pass", "is not there")]
    assert one(reports.result(), None, operators=("linear",)) == [("regression", "pass", "is not there")]
    assert one(reports.result(), None, operators=("rotary",)) == [("gone", "pass", "is not there")]
    assert one(reports.result(), None, profile="bring-up") == [("gone", "pass", "is not there")]
    assert one(reports.result(status="fail"), None) == [("gone", "fail", "is not there")]
    assert one(None, reports.result()) == [("new", "is not there", "pass")]


def gate(value: float) -> tuple[Gate, ...]:
    return (
        Gate(gate="G1", metric="guards", status="pass"),
        Gate(gate="G2", metric="rms", status="pass", value=value, bound=2.0),
        Gate(gate="G3", metric="worst row", status="pass", value=0.5, bound=1.0),
    )


@pytest.mark.parametrize(
    ("before", "after", "told"), [(0.4, 1.0, True), (1.0, 0.4, True), (0.4, 0.5, False), (0.01, 0.1, False)]
)
def test_margins_are_told_past_a_factor_and_above_a_share(before: float, after: float, told: bool) -> None:
    found = one(reports.result(gates=gate(before)), reports.result(gates=gate(after)))
    assert found == ([("margin", f"{before * 50:.3g}%", f"{after * 50:.3g}%")] if told else [])


@pytest.mark.parametrize(
    ("before", "after", "told"), [(0.01, 0.03, True), (0.03, 0.01, True), (0.01, 0.015, False), (1e-6, 5e-5, False)]
)
def test_times_are_told_past_a_factor_and_are_no_regression(before: float, after: float, told: bool) -> None:
    found = one(reports.result(seconds=before), reports.result(seconds=after))
    assert [f[0] for f in found] == (["time"] if told else [])


def test_a_kernel_of_other_content() -> None:
    a = reports.conforming()
    kernels = (a.kernels[0].model_copy(update={"hash": "sha256:" + "f" * 64}), *a.kernels[1:])
    found = diff(a, a.model_copy(update={"kernels": kernels}))
    assert found.changes == (Change("kernel", a.kernels[0].operator, a.kernels[0].name, a.kernels[0].hash, "f" * 12),)
    assert not found.regressed


def test_a_mutant_that_now_survives_is_a_regression() -> None:
    a, b = (
        reports.conforming(),
        reports.report(reports.grid(0.5), mutants=reports.mutants(survivor="linear/dropped_row")),
    )
    assert [(c.what, c.after) for c in diff(a, b).of("regression")] == [
        ("verdict", "does not conform"),
        ("mutant dropped_row", "survived"),
    ]
    assert [c.kind for c in diff(b, a).changes] == ["repair", "mutant"]


def test_mutants_that_were_not_asked_for_are_no_regression() -> None:
    b = reports.report(reports.grid(0.5))
    assert [(c.kind, c.what, c.after) for c in diff(reports.conforming(), b).changes] == [
        ("environment", "mutants", "not run")
    ]


def test_a_null_kernel_that_now_survives_is_a_regression() -> None:
    found = one(reports.result(nulls={"zeros": "killed"}), reports.result(nulls={"zeros": "survived"}))
    assert found == [("regression", "killed", "survived")]


def test_a_run_that_was_cut_short_is_a_regression() -> None:
    a = reports.conforming()
    found = diff(a, a.model_copy(update={"complete": False, "stopped": "interrupted"}))
    assert [(c.what, c.before, c.after) for c in found.of("regression")] == [("verdict", "conforms", "incomplete")]


def test_the_environment() -> None:
    a = reports.conforming()
    b = a.model_copy(update={"environment": a.environment | {"torch": "2.14.0"}, "backend": "cuda"})
    assert [(c.what, c.before, c.after) for c in diff(a, b).changes] == [
        ("backend", "cpu", "cuda"),
        ("torch", "2.13.0", "2.14.0"),
    ]


def test_another_definition_of_an_operator() -> None:
    found = one(reports.result(), reports.result(spec_hash="sha256:" + "a" * 64))
    assert [f[0] for f in found] == ["operator"]


def test_changes_alike_are_told_once() -> None:
    def with_kernel(name: str) -> Report:
        return reports.report([reports.result(label=f"T={i}", kernel=name) for i in range(9)])

    found = diff(with_kernel("cpu/a"), with_kernel("cpu/b")).of("served")
    assert [(c.after, n) for c, n in grouped(found)] == [("cpu/b", 9)]
