"""`deepport compile`: what it says of mistakes and of what is missing, and that what it compiles is real code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import Deepport

from deepport_triton.ahead import npu
from deepport_triton.ahead.target import TARGETS

MISTAKES = {
    "target": (("--target", "sm_91"), 2, "--target sm_91: no target is called so; there are: sm_80, sm_90"),
    "operator": (("--operator", "attention"), 2, "attention"),
    "no kernel": (("--operator", "linear_backward"), 2, "--operator linear_backward: no Triton kernel computes it"),
    "both": (("--check", "--update"), 2, "--check compares with the baseline and --update writes it"),
}


def compiling(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: this one may interpret kernels."""
    inherited = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "deepport", "compile", *arguments]
    return subprocess.run(command, env=inherited | environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str, command: Deepport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    arguments, code, said = MISTAKES[mistake]
    ended = command("compile", *arguments)
    assert (ended.code, ended.out) == (code, "")
    last = ended.err.splitlines()[-1]
    assert last.startswith("deepport: ") and said in last


def test_a_missing_triton_is_one_line(command: Deepport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepport.command.compile.find_spec", lambda name: None)
    ended = command("compile")
    assert (ended.code, ended.err) == (3, "deepport: triton is not installed; pip install 'deepport[triton]'\n")


def test_an_interpreting_process_compiles_nothing(command: Deepport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    ended = command("compile")
    assert ended.code == 2
    assert ended.err == "deepport: TRITON_INTERPRET=1 has kernels interpreted: unset it to compile them\n"


def test_a_missing_compiler_for_ascend_is_one_line(command: Deepport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv(npu.PYTHON, "/nowhere/bin/python")
    ended = command("compile", "--target", "ascend-a2")
    assert ended.code == 3
    assert ended.err.startswith("deepport: the compiler for Ascend is not here: /nowhere/bin/python does not exist; ")


@pytest.mark.slow
def test_a_kernel_is_compiled_for_chips_that_are_not_here(tmp_path: Path) -> None:
    """Into an empty cache, so that compilers run: code of two vendors, and facts read from it."""
    targets = ("--target", "sm_90", "--target", "gfx942")
    ended = compiling("--operator", "swiglu", "--brief", "--json", *targets, TRITON_CACHE_DIR=str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["evidence"] == "E3" and not told["interrupted"]
    assert {row["target"] for row in told["compiled"]} == {"sm_90", "gfx942"}
    for row in told["compiled"]:
        assert row["operator"] == "swiglu" and row["faults"] == []
        assert 8 <= row["registers"] <= 255 and row["code"] > 256 and row["limit"] == TARGETS[row["target"]].shared
    assert list(tmp_path.rglob("*.cubin")) and list(tmp_path.rglob("*.hsaco"))


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    inherited = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    program = subprocess.Popen(
        [sys.executable, "-m", "deepport", "compile", "--target", "sm_90", "--brief", "--jobs", "1"],
        env=inherited | {"TRITON_CACHE_DIR": str(tmp_path)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 100
    while not list(tmp_path.rglob("*.cubin")) and time.monotonic() < deadline:
        time.sleep(0.2)
    threads = Path(f"/proc/{program.pid}/task").glob("*/children")  # a child is the thread's that started it
    children = [c for thread in threads for c in thread.read_text().split()]
    program.send_signal(signal.SIGINT)
    out, err = program.communicate(timeout=30)
    assert program.returncode == 130, err
    assert "interrupted" in err and "Traceback" not in err
    assert "sm_90" in out, "what was compiled is shown"
    assert children and not [c for c in children if _lives(c)]


def _lives(process: str) -> bool:
    state = Path(f"/proc/{process}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"
