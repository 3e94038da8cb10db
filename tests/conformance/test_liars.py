"""The suite catches kernels that are wrong, ill-mannered or dishonest, each by its name, and passes honest ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from distributions import backend_source, installed
from liars import EASY, HONEST, MANNERS, MEDDLING, NUMBERS, PLACES, SLOPPY, TRACE

from deepport.conformance.journal import Journal
from deepport.conformance.result import Gate, MutantResult, Report, Result
from deepport.conformance.run import Request, run
from deepport.conformance.verdict import verdict

pytestmark = pytest.mark.slow


class Nobody:
    def begun(self, cases: int, mutants: int) -> None: ...

    def found(self, item: Result | MutantResult) -> None: ...


def reported(backend: str, *operators: str, profile: str = "inference") -> Report:
    request = Request(backend=backend, operators=operators, profile=profile)  # type: ignore[arg-type]
    return run(request, Nobody(), Journal(None))


def of(report: Report, implementation: str) -> list[Result]:
    found = [r for r in report.results if r.implementation.endswith(f"/{implementation}")]
    assert found, f"{implementation} answered no case"
    return found


def failed(report: Report, implementation: str) -> list[Gate]:
    """The gates that a kernel fails."""
    return [g for r in of(report, implementation) for g in r.gates if g.status == "fail"]


def labels(results: list[Result]) -> str:
    return "; ".join(f"{r.case.grid} {r.case.label}: {r.reason}" for r in results)


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The backends of this file, installed. The file that comes back has a line for each process that loads the meddler."""
    folder = tmp_path_factory.mktemp("backends")
    loads = folder / "loads"
    with installed(
        folder / "site",
        numbers=backend_source("numbers", NUMBERS),
        places=backend_source("places", PLACES),
        manners=backend_source("manners", MANNERS),
        meddler=TRACE.format(path=str(loads)) + backend_source("meddler", SLOPPY, start=MEDDLING),
        feeder=backend_source("feeder", SLOPPY, start=EASY),
        honest=backend_source("honest", HONEST),
    ):
        yield loads


@pytest.fixture(scope="module")
def numbers(backends: Path) -> Report:
    return reported("numbers", "linear", "sparse_attention", profile="bring-up")


@pytest.fixture(scope="module")
def places(backends: Path) -> Report:
    return reported("places", "engram_gather", "write_pages_", "swiglu")


@pytest.fixture(scope="module")
def manners(backends: Path) -> Report:
    return reported("manners", "rms_norm", "swiglu", "rotary", "block_linear", profile="bring-up")


def test_sums_in_bf16_are_seen(numbers: Report) -> None:
    found = of(numbers, "bf16_accumulation")
    assert {r.operator for r in found if r.status == "fail"} == {"linear"}
    assert {g.gate for g in failed(numbers, "bf16_accumulation")} >= {"G2"}


def test_a_window_that_is_short_by_one_is_seen(numbers: Report) -> None:
    found = of(numbers, "short_window")
    assert "fail" in {r.status for r in found} and "G2" in {g.gate for g in failed(numbers, "short_window")}


@pytest.mark.parametrize("name", ["int32_gather", "int32_write"])
def test_32_bit_addresses_are_seen_far_away_and_only_there(places: Report, name: str) -> None:
    wrong = {r.case.variant for r in of(places, name) if r.status == "fail"}
    right = {r.case.variant for r in of(places, name) if r.status == "pass"}
    assert wrong == {"far"} and "far" not in right, labels(of(places, name))


def test_a_kernel_that_ignores_strides_is_seen_where_there_are_some(places: Report) -> None:
    wrong = {r.case.variant for r in of(places, "contiguous_only") if r.status != "pass"}
    assert wrong == {"strided"}, labels([r for r in of(places, "contiguous_only") if r.status != "pass"])


MANNERED = {
    "stale": {"G1 reads only what it may", "G2 output 0 rms"},
    "remembered": {"G2 output 0 rms"},
    "one_buffer": {"G1 new memory"},
    "last_row_unwritten": {"G0 output 0 infinities and NaN"},
    "writes_input": {"G1 inputs unchanged"},
    "one_token": {"G2 output 0 rms"},
    "no_tokens": {"G1 shapes"},
    "unsteady": {"G1 same bits again"},
    "sees_the_guard": {"G1 reads only what it may"},
    "borrowed": {"G1 computes by itself"},
    "fickle": {"G1 served by"},
    "asked_in_vain": {"G2 output 0 rms"},
    "another_operator": {"G2 output 0 rms"},
}
"""By the kernel's name, gates that must see it."""


@pytest.mark.parametrize("name", MANNERED)
def test_ill_mannered_kernels_are_seen(manners: Report, name: str) -> None:
    found = {f"{g.gate} {g.metric}" for g in failed(manners, name)}
    assert found >= MANNERED[name], found


def test_each_fault_is_told_by_the_kernels_name(manners: Report) -> None:
    failing = {r.implementation for r in manners.results if r.status in ("fail", "error")}
    named = {f"manners/{name}" for name in (*MANNERED, "promises", "cannot_tell")}
    assert failing == named


def test_only_the_sizes_that_a_kernel_gets_wrong_fail(manners: Report) -> None:
    wrong = {r.case.parameters["shape"][0] for r in of(manners, "one_token") if r.status != "pass"}
    assert wrong == {1}
    wrong = {r.case.parameters["shape"][0] for r in of(manners, "no_tokens") if r.status != "pass"}
    assert wrong == {0}


def test_a_kernel_that_says_yes_and_raises_is_an_error_and_no_lack_of_support(manners: Report) -> None:
    assert {(r.status, r.reason) for r in of(manners, "promises")} == {
        ("error", "not implemented: rms_norm is not implemented on Acme One")
    }


def test_a_kernel_that_cannot_be_asked_is_an_error_where_production_would_stop(manners: Report) -> None:
    assert {(r.status, r.serving, r.reason) for r in of(manners, "cannot_tell")} == {
        ("error", True, "supports() raised KeyError: 'xs'")
    }
    assert not any(r.serving for r in of(manners, "asked_in_vain"))
    takes = {k.name: k.takes for k in manners.kernels if k.operator == "rotary"}
    assert takes["cannot_tell"] == 0 and takes["asked_in_vain"] > 0


def test_the_verdict_of_liars_is_that_they_lie(numbers: Report, places: Report, manners: Report) -> None:
    for report in (numbers, places, manners):
        assert verdict(report).word == "does not conform"


def test_meddling_with_the_suite_does_not_help(backends: Path) -> None:
    """The kernel's process has its own gates, tolerances and references; the judge's never loads the backend."""
    report = reported("meddler", "linear", profile="bring-up")
    drawn = [r for r in of(report, "sloppy") if 0 not in r.case.parameters["tkn"]]
    assert drawn and {r.status for r in drawn} == {"fail"}, labels(drawn)
    assert "G2" in {g.gate for g in failed(report, "sloppy")}
    assert set(backends.read_text().splitlines()) == {"worker"}, "the judge loaded the backend"


def test_other_inputs_than_the_cases_are_refused(backends: Path) -> None:
    """Of zeros every product is right."""
    report = reported("feeder", "linear", profile="bring-up")
    drawn = [r for r in of(report, "sloppy") if 0 not in r.case.parameters["tkn"]]
    assert drawn and {r.status for r in drawn} == {"error"}
    assert all("its inputs are not those of the case" in r.reason for r in drawn)


def test_honest_kernels_pass_everything(backends: Path) -> None:
    report = reported("honest", "linear", "rms_norm", "swiglu", "moe_experts")
    wrong = [r for r in report.results if r.status != "pass"]
    assert not wrong, labels(wrong)
    found = verdict(report)
    assert found.word == "conforms" and found.by_kernels > 150
    assert f"{found.by_kernels} by 4 kernels, {found.passed - found.by_kernels} by references" in found.headline
    assert "E4, executed by an interpreter or a simulator" in found.headline
