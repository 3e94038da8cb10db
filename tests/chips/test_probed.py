"""The profile of this machine: what its probes gave, as a file that plans can use."""

from pathlib import Path

import pytest
from commands import Deepport

from deepport.chips import mapped, shelf
from deepport.chips.profile import Number
from deepport.runtime import HostRuntime


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(shelf, "own", lambda: tmp_path / "chips")
    return tmp_path / "chips"


@pytest.mark.slow
def test_this_machine_is_probed(mine: Path, command: Deepport) -> None:
    ended = command("probe", "--device", "cpu", "--rounds", 2, "--name", "bench-1")
    assert (ended.code, ended.err) == (0, "")
    profile = shelf.find("bench-1")
    assert shelf.read(mine / "bench-1.json") == profile
    assert profile.backend == "cpu" and profile.link is None
    assert profile.value("memory") == HostRuntime().memory().total
    assert {"bandwidth", "launch", "gather 512 B", "flops float32", "flops bfloat16"} <= dict(profile.numbers()).keys()
    assert 1e8 < (profile.value("bandwidth") or 0) < 1e13
    assert 1e-9 < (profile.value("launch") or 0) < 1e-3
    assert "the most of 2 probes" in profile.sources["probe"].title
    assert "the most of 2 probes" in ended.out
    assert mapped_or_nothing(profile.file)


def mapped_or_nothing(file: dict[int, Number]) -> bool:
    """Nothing where the folder's disk is memory; else every size of rows, and slower than memory is."""
    return not file or (set(file) == {256, 512, 1024} and all(0 < n.value < 1e10 for n in file.values()))


def test_a_file_that_is_kept_in_memory_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate would be of memory: nobody had to wait for a page."""
    monkeypatch.setattr(mapped, "_BYTES", 4 << 20)
    file = mapped.MappedFile(tmp_path)
    monkeypatch.setattr("os.posix_fadvise", lambda *_: None)  # as of a file system that does not drop pages
    assert file.rate(512) is None
