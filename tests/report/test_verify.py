"""A report is whole, and of the kernels that are installed here, or a line says why not."""

from collections.abc import Mapping

import pytest
from report import reports

from deepport.conformance.result import Report
from deepport.errors import BackendUnavailable
from deepport.report.verify import verify


def hashes(report: Report) -> dict[str, str]:
    return {f"{k.operator}:{k.name}": k.hash for k in report.kernels}


def found(report: Report, here: Mapping[str, str] | None = None) -> list[tuple[str, str]]:
    given = hashes(report) if here is None else here
    return [(f.state, f.text) for f in verify(report, lambda backend: given)]


def test_all_is_right() -> None:
    report = reports.conforming()
    assert [state for state, _ in found(report)] == ["ok", "ok", "ok"]
    assert found(report)[2][1] == "12 kernels of cpu installed here: the code that was judged"


def test_a_changed_byte_is_found() -> None:
    report = reports.conforming()
    first = report.results[0].model_copy(update={"seconds": report.results[0].seconds * 2})
    assert found(report.model_copy(update={"results": (first, *report.results[1:])}))[0] == (
        "WRONG",
        "the report was changed after the run: its digest is not that of its content",
    )


def test_a_journal_was_never_finished() -> None:
    report = reports.conforming().model_copy(update={"digest": "", "complete": False, "stopped": "the run was killed"})
    assert found(report)[0] == ("WRONG", "the report was never finished: the run was killed")


def test_other_code_a_missing_kernel_and_a_new_one() -> None:
    report = reports.conforming()
    here = hashes(report)
    changed, gone = list(here)[:2]
    here[changed] = "sha256:0"
    del here[gone]
    here["linear:cpu/new"] = "sha256:1"
    assert [text for state, text in found(report, here) if state == "WRONG"] == [
        f"{changed}: is other code here: sha256:0, and {hashes(report)[changed]} was judged",
        f"{gone}: was judged, and is not installed here",
        "linear:cpu/new: is installed here, and was not judged",
    ]


def test_a_kernel_that_was_not_asked_for_is_no_finding() -> None:
    report = reports.report([reports.result("rotary", kernel="cpu/r")], operators=("rotary",))
    assert {state for state, _ in found(report, hashes(report) | {"linear:cpu/new": "sha256:1"})} == {"ok"}


def test_a_kernel_without_a_file_is_unknown() -> None:
    report = reports.conforming()
    here = dict.fromkeys(hashes(report), "")
    assert {state for state, _ in found(report, here)[2:]} == {"unknown"}


def test_results_that_name_another_hash_are_found() -> None:
    report = reports.conforming()
    results = tuple(r.model_copy(update={"kernel_hash": "sha256:2"}) if r.by_kernel else r for r in report.results)
    wrong = [text for state, text in found(report.model_copy(update={"results": results}).sealed()) if state == "WRONG"]
    assert len(wrong) == 12
    assert wrong[0].endswith("its results do not have the hash that the report lists for it")


def test_a_backend_that_is_not_here_is_said() -> None:
    def absent(backend: str) -> Mapping[str, str]:
        raise BackendUnavailable(f"no backend is called {backend!r}; installed: cpu")

    last = verify(reports.conforming(), absent)[-1]
    assert last.state == "unknown"
    assert last.text == "12 kernels could not be compared: no backend is called 'cpu'; installed: cpu"


@pytest.mark.parametrize("make", [reports.references, reports.troubled, reports.hostile])
def test_any_report_can_be_verified(make: object) -> None:
    assert callable(make)
    assert verify(make(), lambda backend: {})
