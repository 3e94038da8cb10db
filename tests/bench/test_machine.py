"""What the system tells of the machine, or does not."""

import os
from pathlib import Path

import pytest

from deepport.bench import machine
from deepport.bench.result import Cache


def core(root: Path, number: int, *levels: tuple[str, str, str, str]) -> None:
    """`(level, type, size, cores that share it)`."""
    for i, (level, kind, size, shared) in enumerate(levels):
        folder = root / f"cpu{number}" / "cache" / f"index{i}"
        folder.mkdir(parents=True)
        for name, text in (("level", level), ("type", kind), ("size", size), ("shared_cpu_list", shared)):
            (folder / name).write_text(f"{text}\n")


def test_caches_of_our_own_cores_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(4):
        own = (("1", "Data", "48K", str(i)), ("1", "Instruction", "32K", str(i)), ("2", "Unified", "2M", str(i)))
        core(tmp_path, i, *own, ("3", "Unified", "300M", "0-3"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 2})
    found = machine.caches(tmp_path)
    assert found == (
        Cache(level="L1", bytes=96 << 10), Cache(level="L2", bytes=4 << 20), Cache(level="L3", bytes=300 << 20)
    )  # fmt: skip
    assert machine.beyond(found) == 600 << 20
    assert machine.beyond(found[:1], "cuda") == 2 * machine.ACCELERATOR


@pytest.mark.parametrize("size", ["", "much", "K", "-1K"])
def test_a_system_that_tells_nothing(tmp_path: Path, size: str) -> None:
    core(tmp_path, min(os.sched_getaffinity(0)), ("3", "Unified", size, "0"))
    assert machine.caches(tmp_path) == ()
    assert machine.beyond(()) > 64 << 20


def test_the_commit_is_that_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.commit(tmp_path) == "", "in no repository"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.commit() == "", "there is no git"
