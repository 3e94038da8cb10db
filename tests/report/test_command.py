"""`deepport report`: files in, text and exit codes out."""

import json
from pathlib import Path

import pytest
from commands import Deepport
from report import reports
from report.test_files import journal

from deepport.conformance.result import Report


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for make in (reports.references, reports.conforming, reports.troubled):
        (tmp_path / f"{make.__name__}.json").write_text(make().model_dump_json())
    return tmp_path


def test_show(folder: Path, command: Deepport) -> None:
    page, xml, text = (folder / name for name in ("r.html", "r.xml", "r.md"))
    ended = command("report", "show", folder / "troubled.json", "--html", page, "--junit", xml, "--markdown", text)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("cpu on AMD EPYC 9B14 does not conform")
    assert page.read_text().startswith("<!doctype html>")
    assert xml.read_text().startswith("<?xml")
    assert text.read_text().startswith("**cpu on")


def test_show_of_a_killed_run(folder: Path, command: Deepport) -> None:
    path = folder / "r.json.journal"
    path.write_text("\n".join(journal(reports.conforming())[:20]) + '\n{"result": {"torn')
    ended = command("report", "show", path)
    assert ended.code == 0
    assert "cpu on AMD EPYC 9B14 incomplete" in ended.out
    assert "PROBLEM run: is not complete: the run was killed" in ended.out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("show nowhere.json", 2, "cannot be read: No such file or directory"),
        ("show other.json", 2, "has no field 'format': it is no report of deepport conform"),
        ("diff conforming.json nowhere.json", 2, "nowhere.json: cannot be read"),
        ("verify other.json", 2, "has no field 'format'"),
        ("show conforming.json --html /nowhere/r.html", 1, "No such file or directory: '/nowhere/r.html'"),
        ("show conforming.json --junit /dev/full", 1, "No space left on device: '/dev/full'"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: str, code: int, said: str, folder: Path, command: Deepport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "other.json").write_text("{}")
    ended = command("report", *arguments.split())
    assert ended.code == code
    assert ended.err.startswith("deepport: ")
    assert said in ended.err
    assert ended.err.count("\n") == 1


def test_diff(folder: Path, command: Deepport) -> None:
    changes = folder / "changes.json"
    ended = command("report", "diff", folder / "conforming.json", folder / "troubled.json", "--json", changes)
    assert ended.code == 1
    assert ended.out.startswith("regressions: 2\n")
    assert ended.out.endswith("2 regressions\n")
    found = json.loads(changes.read_text())
    assert found["regressed"]
    assert {c["kind"] for c in found["changes"]} == {"regression", "kernel", "new"}


def test_diff_of_the_same(folder: Path, command: Deepport) -> None:
    ended = command("report", "diff", folder / "conforming.json", folder / "conforming.json")
    assert (ended.code, ended.out) == (0, "no regression\n")


def save(report: Report, path: Path) -> Path:
    path.write_text(report.model_dump_json())
    return path


def test_verify(folder: Path, command: Deepport, monkeypatch: pytest.MonkeyPatch) -> None:
    report, here = reports.conforming(), {f"{k.operator}:{k.name}": k.hash for k in reports.conforming().kernels}
    monkeypatch.setattr("deepport.conformance.environment.installed", lambda backend: here)
    ended = command("report", "verify", folder / "conforming.json")
    assert ended.code == 0
    assert [line.split()[0] for line in ended.out.splitlines()] == ["ok", "ok", "ok"]
    changed = save(report.model_copy(update={"backend": "cuda"}), folder / "changed.json")
    ended = command("report", "verify", changed)
    assert ended.code == 1
    assert ended.out.startswith("WRONG    the report was changed after the run")


def test_verify_where_the_backend_is_not_installed(folder: Path, command: Deepport) -> None:
    path = save(reports.conforming().model_copy(update={"backend": "tpu"}).sealed(), folder / "tpu.json")
    ended = command("report", "verify", path)
    assert ended.code == 3
    assert "unknown  12 kernels could not be compared: no backend is called 'tpu'; installed: " in ended.out


def test_verify_against_the_kernels_that_are_really_here(folder: Path, command: Deepport) -> None:
    """No kernel of a made-up report is the one that is installed."""
    ended = command("report", "verify", folder / "troubled.json")
    assert ended.code == 1
    assert "linear:cpu/onednn: is other code here: sha256:" in ended.out


def test_help_says_what_a_hash_does_not_prove(command: Deepport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert "They are no signature" in " ".join(command("report", "verify", "--help").out.split())
