"""Reports as files: whatever is not exactly one is refused in a line that names the field; nothing is ever half-written."""

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report import reports

from deepport.conformance.result import Report
from deepport.errors import BadInput
from deepport.report import files
from deepport.report.files import read, read_journal, write


@pytest.fixture
def content() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(reports.troubled().model_dump_json())
    return found


@pytest.mark.parametrize("make", [reports.references, reports.without_mutants, reports.troubled, reports.hostile])
def test_a_report_is_read_as_it_was_written(make: Callable[[], Report], tmp_path: Path) -> None:
    path, report = tmp_path / "r.json", make()
    write(path, report.model_dump_json())
    # As text: NaN, which a margin may be, equals nothing.
    assert read(path).model_dump_json() == report.model_dump_json()
    assert read(path).whole


def put(content: dict[str, Any], path: str, value: object) -> None:
    *parents, last = path.split(".")
    place: Any = content
    for name in parents:
        place = place[int(name) if name.isdigit() else name]
    place[int(last) if last.isdigit() else last] = value


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("results.3.status", "great", "field results[3].status: Input should be 'pass', 'fail'"),
        ("results.3.status", None, "field results[3].status"),
        ("results.3.seconds", "long", "field results[3].seconds: Input should be a valid number"),
        ("results.3.gates.0.gate", "G9", "field results[3].gates[0].gate"),
        ("results.3.extra", 1, "field results[3].extra: Extra inputs are not permitted"),
        ("results.3", [], "field results[3]: Input should be a valid dictionary"),
        ("results", 7, "field results is no list"),
        ("results", None, "field results: Input should be a valid tuple"),
        ("mutants.0.tried", {}, "field mutants[0].tried"),
        ("kernels.0.refuses.why", "x", "field kernels[0].refuses.why"),
        ("environment", [], "field environment"),
        ("results.0.reason", "\ud800", "field results[0] holds half a character"),
        ("format", "deepport.conformance/2", "is of the format 'deepport.conformance/2', and this deepport reads deepport.conf"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(field: str, value: object, said: str, content: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    put(content, field, value)
    path.write_text(json.dumps(content))
    with pytest.raises(BadInput) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: {said}")
    assert "\n" not in str(error.value)


def test_another_version_is_said_before_what_it_changed(content: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    content |= {"format": "deepport.conformance/9", "device": 3, "invented": 1}
    path.write_text(json.dumps(content))
    with pytest.raises(BadInput, match=r"is of the format 'deepport\.conformance/9'"):
        read(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is truncated, or not JSON: Expecting value"),
        ("not json", "is truncated, or not JSON"),
        ("[1]", "is JSON, but is no report of deepport conform"),
        ("{}", "has no field 'format': it is no report"),
        ('{"format": "deepport.conformance/1"}', "field deepport is missing"),
        ("[" * 200_000, "is truncated, or not JSON"),
        ('{"a": ' + "9" * 5000 + "}", "is truncated, or not JSON"),
        ("\x00\xff", "is truncated, or not JSON"),
    ],
)
def test_what_is_no_report_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInput) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: {said}")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def test_a_truncated_report_is_refused(tmp_path: Path) -> None:
    path, text = tmp_path / "r.json", reports.conforming().model_dump_json()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(BadInput, match="is truncated, or not JSON"):
        read(path)


@pytest.mark.parametrize(("path", "said"), [("/nowhere/r.json", "No such file"), ("/", "Is a directory")])
def test_what_cannot_be_read_is_named(path: str, said: str) -> None:
    with pytest.raises(BadInput, match=f"^{path}: cannot be read: {said}"):
        read(Path(path))


def test_a_file_without_end_is_refused() -> None:
    with pytest.raises(BadInput, match="/dev/zero: is larger than 32 MiB"):
        read(Path("/dev/zero"))


@pytest.mark.parametrize("inner", ['"results":[1%s]' % (",1" * 4_000_000), '"problems":[[]%s]' % (",[]" * 2_000_000)])
def test_a_hostile_file_takes_bounded_memory(inner: str, tmp_path: Path) -> None:
    """Parsed by pydantic alone, these 8 MB take 4 GB."""
    path = tmp_path / "r.json"
    path.write_text('{"format":"deepport.conformance/1",' + inner + "}")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from deepport.errors import BadInput\n"
        "from deepport.report.files import read\n"
        "try: read(Path(sys.argv[1]))\n"
        # Not ru_maxrss: it begins with what the process held that forked this one.
        "except BadInput:\n"
        "    lines = Path('/proc/self/status').read_text().splitlines()\n"
        "    print(next(int(line.split()[1]) >> 10 for line in lines if line.startswith('VmHWM')))"
    )
    limits = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))}
    ended = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False, **limits
    )
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) < 600


def journal(report: Report) -> list[str]:
    head = report.model_copy(update={"results": (), "mutants": None, "digest": ""})
    return [
        json.dumps({"report": head.model_dump(mode="json")}),
        *(json.dumps({"result": r.model_dump(mode="json")}) for r in report.results),
        *(json.dumps({"mutant": m.model_dump(mode="json")}) for m in report.mutants or ()),
    ]


@pytest.mark.parametrize("end", ["\n", "", '\n{"result": {"id": "torn', '\n{"result": {}}'[:-1]])
def test_a_journal_is_the_report_of_a_killed_run(end: str, tmp_path: Path) -> None:
    path, report = tmp_path / "r.json.journal", reports.troubled()
    path.write_text("\n".join(journal(report)) + end)
    for found in (read_journal(path), read(path)):
        assert [r.id for r in found.results] == [r.id for r in report.results]
        assert found.mutants == report.mutants
        assert (found.complete, found.stopped, found.whole) == (False, "the run was killed", False)


def test_a_journal_without_results_is_a_report(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_text(journal(reports.conforming())[0] + "\n")
    assert read(path).results == ()


@pytest.mark.parametrize(
    ("line", "put_in", "said"),
    [
        (3, "{torn", "line 4: is truncated, or not JSON"),
        (3, '{"result": {}}', "field results[2].id is missing"),
        (3, '{"problem": 1}', "line 4: holds 'problem', where a result or a mutant was expected"),
        (3, '{"result": 1, "mutant": 2}', "line 4: has 2 fields"),
        (3, "[]", "line 4: is JSON, but"),
        (0, '{"result": {}}', "does not begin with a report"),
    ],
)
def test_a_damaged_line_is_named(line: int, put_in: str, said: str, tmp_path: Path) -> None:
    path, lines = tmp_path / "j", journal(reports.conforming())
    lines[line] = put_in
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(BadInput) as error:
        read_journal(path)
    assert str(error.value).startswith(f"{path}: {said}")


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.json"
    path.write_text("old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as error:
        write(path, "new")
    assert error.value.filename == str(path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_device_is_written_to_and_not_replaced() -> None:
    write(Path("/dev/null"), "text")
    assert Path("/dev/null").is_char_device()


def test_reading_needs_no_torch() -> None:
    modules = ("files", "terminal", "html", "junit", "markdown", "diff", "verify", "outputs")
    imports = "\n".join(f"import deepport.report.{m}" for m in modules)
    code = f"import sys, deepport.command.report\n{imports}\nprint('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
