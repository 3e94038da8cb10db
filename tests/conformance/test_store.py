"""The machine's own records: what `deepport run` may take as proven, and what not."""

from pathlib import Path

import pytest

from deepport.conformance import store
from deepport.conformance.result import CaseKey, DeviceInfo, KernelInfo, Report, Result, Status

KERNEL, HASH = "linear:acme/fused", "sha256:1"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return tmp_path / "deepport" / "conformance" / "acme"


def report(*statuses: Status) -> Report:
    results = [
        Result(
            id=str(i), operator="linear", case=CaseKey(grid="operator", label=str(i), builder="b", parameters={}),
            dtype="float32", implementation="acme/fused", serving=True, kernel_hash=HASH, spec_hash="", status=status,
            evidence="E5",
        )
        for i, status in enumerate(statuses)
    ]  # fmt: skip
    return Report(
        deepport="1", created="2026-11-22", backend="acme", device=DeviceInfo(name="Acme One"), evidence="E5",
        profile="inference", environment={"torch": "2.13.0"},
        kernels=(KernelInfo(operator="linear", name="fused", hash=HASH, takes=len(results)),), results=tuple(results),
    ).sealed()  # fmt: skip


def unproven(digest: str = HASH, torch: str = "2.13.0") -> list[str]:
    return store.unproven("acme", {KERNEL: digest}, torch)


def test_nothing_is_proven_without_a_record() -> None:
    assert unproven() == [KERNEL]


def test_a_kernel_that_passes_is_proven_with_its_files_and_its_torch() -> None:
    store.save(report("pass", "pass"))
    assert unproven() == []
    assert unproven(digest="sha256:2") == unproven(torch="2.14.0") == [KERNEL]


@pytest.mark.parametrize("status", ["fail", "error", "timeout", "gap", "not_run"])
def test_a_kernel_that_does_not_pass_everything_is_not_proven(status: Status) -> None:
    store.save(report("pass", "pass"))
    store.save(report("pass", status))
    assert unproven() == [KERNEL]


def test_a_kernel_that_answered_nothing_is_not_proven() -> None:
    store.save(report())
    assert unproven() == [KERNEL]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"linear:acme/fused": 1}', "\0"])
def test_a_damaged_index_proves_nothing(home: Path, text: str) -> None:
    home.mkdir(parents=True)
    (home / "proven.json").write_text(text)
    assert unproven() == [KERNEL]


def test_reports_are_kept_by_profile() -> None:
    kept = report("pass")
    path = store.save(kept)
    assert [(p, r.digest) for p, r in store.reports("acme")] == [(path, kept.digest)]
