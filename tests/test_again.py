"""A run whose device fails late says, after one more run in which each call waits, which call it was.

The device is a CPU that keeps its errors: `acme` fails in swiglu and says so at the next norm, unless ACME_WAITS is 1.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from distributions import write_distribution

from deepport.command.terminal import described
from deepport.errors import late

ACME = """
import os
import signal
import time
from pathlib import Path

from deepport.backend import Device, Probe
from deepport.runtime import HostRuntime

WAITS, FAULT = os.environ.get("ACME_WAITS") == "1", os.environ["ACME_FAULT"]

class Acme:
    name, device_type, simulates = "acme", "cpu", "cuda"

    def probe(self):
        return Probe(reason="its card is gone") if WAITS and FAULT == "gone" else Probe((Device("Acme One"),))

    def start(self):
        runtime = HostRuntime()
        runtime.blocking = "" if WAITS and FAULT != "deaf" else "ACME_WAITS=1"
        return runtime

    def kernels(self):
        from torch import Tensor
        from deepport import ops
        from deepport.kernel import Kernel

        kept = []

        def swiglu(gate: Tensor, up: Tensor, limit: float | None = None) -> Tensor:
            if WAITS and FAULT == "race":
                return ops.swiglu.reference(gate, up, limit)
            if WAITS and FAULT == "hang":
                Path(os.environ["ACME_FOLDER"], "pids").write_text(f"{os.getpid()} {os.getppid()}")
                time.sleep(1000)
            if WAITS and FAULT == "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            if WAITS and FAULT != "deaf":
                raise RuntimeError("the unit is on fire")
            kept.append(7)
            return ops.swiglu.reference(gate, up, limit)

        def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
            if kept:
                raise RuntimeError(f"code {kept[0]}")
            return ops.rms_norm.reference(x, weight, eps)

        return [Kernel("swiglu", "fused", swiglu), Kernel("rms_norm", "fused", rms_norm)]

backend = Acme()
"""

START = "the device failed; running once more with ACME_WAITS=1, to see in which call ..."
LATE = "deepport: internal error: RuntimeError: code 7; in rms_norm("
BEHIND = ", or in an earlier call: ACME_WAITS=1 makes each wait for the device"

Process = subprocess.Popen[str]
Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path, checkpoint: Path) -> Iterator[Start]:
    """Start `deepport run` on acme with a fault."""
    write_distribution(tmp_path / "site", "acme", ACME)
    started: list[Process] = []

    def run(fault: str, *options: str, module: tuple[str, ...] = ("deepport.run",), **environment: str) -> Process:
        command = [sys.executable, "-m", *module, "--device", "acme", "--model", str(checkpoint), *options]
        mine = {"PYTHONPATH": str(tmp_path / "site"), "ACME_FAULT": fault, "ACME_FOLDER": str(tmp_path), **environment}
        pipe = subprocess.PIPE
        started.append(
            subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **mine})
        )
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def ended(process: Process, prompt: str = "") -> tuple[int, str, list[str]]:
    """Exit code, stdout, and lines of stderr."""
    out, err = process.communicate(prompt, timeout=120)
    return process.returncode, out, err.splitlines()


def test_the_call_is_named_by_a_second_run_on_the_same_prompt(start: Start) -> None:
    code, out, (announced, said) = ended(start("late", module=("deepport", "run")), "the words of the text")
    assert (code, out, announced) == (1, "", START)
    direct, _, (alone,) = ended(start("late", ACME_WAITS="1"), "the words of the text")
    assert direct == 1
    assert "RuntimeError: the unit is on fire; in swiglu(gate float32 " in alone
    told = "; so says a second run, in which each call waited for the device; rerun with ACME_WAITS=1 and --traceback"
    assert said == alone.removesuffix("; rerun with --traceback") + told


def test_a_second_run_that_does_not_fail_says_that_a_wait_is_missing(start: Start) -> None:
    code, _, (announced, said) = ended(start("race", "--prompt", "x", "--max-new-tokens", "1"))
    assert (code, announced) == (1, START)
    assert said.startswith(LATE)
    told = "; a second run, in which each call waited for the device (ACME_WAITS=1), did not fail: a wait is likely to be missing"
    assert said.endswith(BEHIND + told)


def test_there_is_no_third_run(start: Start) -> None:
    """Where waiting does not help, what the second run says is the end of it."""
    code, _, lines = ended(start("deaf", "--prompt", "x"))
    assert code == 1
    assert [line for line in lines if line.startswith("the device failed")] == [START]
    assert lines[-1].startswith(LATE)


def test_no_second_run_where_a_traceback_is_asked_for(start: Start) -> None:
    code, _, lines = ended(start("late", "--prompt", "x", "--traceback"))
    assert code == 1
    assert START not in lines
    assert "RuntimeError: code 7" in lines


def test_what_is_told_at_once_needs_no_second_run() -> None:
    """Memory is asked for by the call that lacks it, which the line names."""
    error = MemoryError("1 GiB")
    error.add_note("in rms_norm(x float32 2x3) by reference")
    assert described(error) == (
        1,
        "out of memory: 1 GiB; in rms_norm(x float32 2x3) by reference; a smaller --chunk needs less",
    )
    assert late(RuntimeError("code 7"))
    assert not any(map(late, (error, RuntimeError("can't allocate memory"), NotImplementedError(), ValueError())))


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whoever_ends_it_ends_both(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    """The process that failed has become the one that waits, and takes the second run with it."""
    process = start("hang", "--prompt", "x")
    second, first = waited_for(tmp_path / "pids")
    assert first == process.pid
    assert "deepport.command.again" in Path(f"/proc/{first}/cmdline").read_text()
    process.send_signal(number)
    code, _, lines = ended(process)
    assert code == 128 + number
    if number == signal.SIGINT:
        assert lines[-1].startswith(LATE)
        assert lines[-1].endswith(BEHIND + "; the second run, to see in which call, was interrupted")
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("hang", "was not done in 8 s"),
        ("gone", "ended otherwise: acme: its card is gone"),
        ("crash", "ended otherwise: its process died of SIGSEGV"),
    ],
)
def test_a_second_run_may_come_to_something_else(tmp_path: Path, checkpoint: Path, fault: str, told: str) -> None:
    write_distribution(tmp_path / "site", "acme", ACME)
    arguments = ["--device", "acme", "--model", str(checkpoint)]
    failure = {"text": "it failed", "arguments": arguments, "prompt": "x", "variable": "ACME_WAITS=1"}
    environment = {"PYTHONPATH": str(tmp_path / "site"), "ACME_FAULT": fault, "ACME_FOLDER": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "deepport.command.again"],
        input=json.dumps(failure | {"limit": 8 if fault == "hang" else 120}),
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [START, f"deepport: it failed; a second run, with ACME_WAITS=1, {told}"]


def waited_for(file: Path) -> list[int]:
    """The numbers in a file that will be there."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if file.exists() and (text := file.read_text()):
            return [int(word) for word in text.split()]
        time.sleep(0.05)
    raise AssertionError(f"{file} has not been written")
