"""Whatever a kernel does to its process, or the machine to the run: one case is lost, and the report tells how."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from distributions import backend_source, installed

from deepport.conformance.journal import Journal
from deepport.conformance.result import MutantResult, Report, Result
from deepport.conformance.run import Request, run
from deepport.report.files import read

pytestmark = pytest.mark.slow

CASE = "shape=16x128,weighted=False,dtype=float32"
"""The case in which the kernels of MORTAL die."""

MORTAL = """
import ctypes, os, resource, signal, subprocess, sys, time

def normed(x, weight, eps):
    wide = x.float()
    y = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (y if weight is None else weight * y).to(x.dtype).contiguous()

def dies(how):
    def run(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
        if x.shape == (16, 128) and weight is None and x.dtype == torch.float32:
            how()
        return normed(x, weight, eps)
    run.__name__ = how.__name__
    kernel("rms_norm")(run)

@dies
def strays():
    ctypes.string_at(0)

@dies
def aborts():
    os.abort()

@dies
def exits():
    subprocess.Popen(["sleep", "98765"], env={"DEEPPORT_TEST_CHILD": str(os.getpid())})
    os._exit(3)

@dies
def hangs():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    while True:
        time.sleep(1e6)

@dies
def is_killed():
    subprocess.run(["kill", "-KILL", str(os.getpid())])
    time.sleep(1e6)

@dies
def hogs():
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), before[1]))
    try:
        held = [torch.ones(1 << 22) for _ in range(1000)]
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)

@dies
def chatters():
    os.write(1, b"kernel: all is well\\n" * 200_000)
    print("kernel: all is well " * 100_000, file=sys.stderr)

@dies
def interrupts():
    raise KeyboardInterrupt

@dies
def leaves():
    raise SystemExit(7)

@dies
def curses():
    raise RuntimeError("\\x1b[31mfirst line\\nsecond line")

@dies
def cuts_the_line():
    os.closerange(3, 256)
"""

FATES = {
    "strays": ("error", r"its process died of SIGSEGV in string_at, __init__.py:\d+"),
    "aborts": ("error", r"its process died of SIGABRT in aborts, deepport_mortal.py:\d+"),
    "exits": ("error", r"its process ended with exit code 3.*"),
    "hangs": ("timeout", r"no answer in 8 s; its process was ended"),
    "is_killed": ("error", r"its process died of SIGKILL \(out of memory\?\).*"),
    "hogs": ("error", r"RuntimeError: .*can't allocate memory.*"),
    "interrupts": ("error", r"KeyboardInterrupt"),
    "leaves": ("error", r"SystemExit: 7"),
    "curses": ("error", r"RuntimeError: \?\[31mfirst line second line"),
    "cuts_the_line": ("error", r"its process ended with exit code 1; it last wrote: OSError: .*"),
}
"""By the kernel's name: what becomes of the case, and what the report says of it."""


class Nobody:
    def begun(self, cases: int, mutants: int) -> None: ...

    def found(self, item: Result | MutantResult) -> None: ...


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Report]:
    with installed(tmp_path_factory.mktemp("site"), mortal=backend_source("mortal", MORTAL)):
        request = Request(backend="mortal", operators=("rms_norm",), profile="bring-up", seconds=8.0)
        yield run(request, Nobody(), Journal(None))


@pytest.mark.parametrize("name", FATES)
def test_a_kernel_that_ends_its_process_costs_its_own_case(mortal: Report, name: str) -> None:
    mine = [r for r in mortal.results if r.implementation == f"mortal/{name}"]
    status, reason = FATES[name]
    (lost,) = [r for r in mine if r.case.label == CASE]
    assert lost.status == status and re.fullmatch(reason, lost.reason), (lost.status, lost.reason)
    assert {r.status for r in mine if r is not lost} == {"pass"} and len(mine) == 20


def test_what_a_dead_process_had_started_is_ended_too(mortal: Report) -> None:
    assert mortal.complete and not having("DEEPPORT_TEST_CHILD=")


def test_a_kernel_may_print_what_it_likes(mortal: Report) -> None:
    assert [r.status for r in mortal.results if r.implementation == "mortal/chatters"] == ["pass"] * 20


def test_the_report_of_a_run_with_deaths_is_complete(mortal: Report) -> None:
    assert mortal.complete and mortal.whole and len(mortal.results) == 20 * 11
    assert not mortal.problems


SLEEPER = """
import os, time

@kernel("rms_norm")
def sleeps(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    if x.shape == (16, 128):
        time.sleep(1e6)
    wide = x.float()
    y = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (y if weight is None else weight * y).to(x.dtype).contiguous()
"""
"""Hangs in the last four of twenty cases."""


def test_a_kernel_that_keeps_hanging_is_given_up(tmp_path: Path) -> None:
    with installed(tmp_path, sleepy=backend_source("sleepy", SLEEPER)):
        request = Request(backend="sleepy", operators=("rms_norm",), profile="bring-up", seconds=12.0)
        report = run(request, Nobody(), Journal(None))
    hung = [r for r in report.results if r.case.label.startswith("shape=16x128")]
    assert sorted(r.status for r in hung) == ["not_run", "timeout", "timeout", "timeout"]
    assert {r.reason for r in hung if r.status == "not_run"} == {"sleepy/sleeps gave no answer to 3 cases before"}
    assert {r.status for r in report.results if r not in hung} == {"pass"}


QUICK = SLEEPER.replace("time.sleep(1e6)", "pass")

MARK = "DEEPPORT_TEST_MARK"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    """Backends for commands in processes of their own."""
    sources = {
        "sleeper": backend_source("sleeper", SLEEPER),
        "quick": backend_source("quick", QUICK),
        "absent": backend_source("absent", "", start="raise BackendUnavailable('absent: no card in the slot')").replace(
            "from deepport.gap", "from deepport.errors import BackendUnavailable\nfrom deepport.gap"
        ),
        "unwell": backend_source("unwell", "", start="raise OSError('no license')"),
        "doomed": backend_source("doomed", "", start="import ctypes; ctypes.string_at(0)"),
    }
    with installed(tmp_path / "site", **sources):
        yield tmp_path / "site"


def begun(site: Path, backend: str, *options: object, **how: object) -> subprocess.Popen[str]:
    """`deepport conform` on rms_norm, its processes marked."""
    command = ["conform", "--device", backend, "--profile", "bring-up", "--operator", "rms_norm", *map(str, options)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(site), *filter(None, sys.path)]),
        "XDG_DATA_HOME": str(site.parent / "home"),
        MARK: uuid.uuid5(uuid.NAMESPACE_URL, str(site)).hex,
        "PYTHONUNBUFFERED": "",  # as in a user's shell, whatever these tests run in
    }
    return subprocess.Popen(
        [sys.executable, "-m", "deepport", *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **how,  # type: ignore[call-overload]
    )


def processes(site: Path) -> list[str]:
    """Command lines of the processes that a marked command has started."""
    return having(f"{MARK}={uuid.uuid5(uuid.NAMESPACE_URL, str(site)).hex}")


def having(variable: str) -> list[str]:
    """Command lines of the processes with something in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(v.startswith(variable.encode()) for v in (process / "environ").read_bytes().split(b"\0")):
                found.append((process / "cmdline").read_text().replace("\0", " "))
    return found


def until(what: Callable[[], bool], seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def results_in(journal: Path) -> int:
    return journal.read_text().count('{"result"') if journal.exists() else 0


def test_a_killed_run_leaves_a_journal_that_reads_as_a_report_and_no_processes(site: Path, tmp_path: Path) -> None:
    journal = tmp_path / "report.json.journal"
    process = begun(site, "sleeper", "--json", tmp_path / "report.json")
    assert until(lambda: results_in(journal) == 16), process.communicate(timeout=1)
    process.kill()
    process.communicate()
    assert until(lambda: not processes(site), 10.0), processes(site)
    found = read(journal)
    assert not found.complete and found.stopped and [r.status for r in found.results] == ["pass"] * 16
    shown = subprocess.run(
        [sys.executable, "-m", "deepport", "report", "show", str(journal)], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0 and "16 of 16 required cases pass" in shown.stdout, shown
    assert "incomplete" in shown.stdout


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_a_run_with_a_report_and_no_processes(site: Path, tmp_path: Path) -> None:
    journal, path = tmp_path / "report.json.journal", tmp_path / "report.json"
    process = begun(site, "sleeper", "--json", path)
    assert until(lambda: results_in(journal) == 16), process.communicate(timeout=1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert not processes(site)
    found = read(path)
    assert found.whole and found.stopped == "interrupted" and not found.complete
    assert [r.status for r in found.results].count("pass") == 16
    assert {r.reason for r in found.results if r.status == "not_run"} == {"the run ended before it"}
    assert len(found.results) == 20 and "incomplete" in out
    assert not journal.exists()


def small_files() -> None:
    """Files of this process and its children end at 30 kB; Python ignores the signal that says so."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))


def test_a_disk_that_fills_up_costs_the_files_and_not_the_verdict(site: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    process = begun(site, "quick", "--json", path, preexec_fn=small_files)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert "quick on Acme One" in out and "20 of 20 required cases pass" in out
    assert "report.json.journal: the journal could not be written on: File too large" in out
    assert "Traceback" not in err and re.search(r"^deepport: .*File too large.*report.json", err, re.M), err
    assert not path.exists()
    kept = read(tmp_path / "report.json.journal")
    assert kept.results and {r.status for r in kept.results} == {"pass"}


def test_a_reader_that_leaves_costs_neither_the_files_nor_the_exit_code(site: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    with begun(site, "quick", "--json", path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(timeout=120) == 0, process.stderr.read()
    assert read(path).complete and not path.with_name("report.json.journal").exists()


@pytest.mark.parametrize(
    ("backend", "code", "line"),
    [
        ("absent", 3, "deepport: absent: no card in the slot"),
        ("unwell", 1, "deepport: unwell: the device could not be opened: OSError: no license"),
        ("doomed", 1, "deepport: doomed: the device could not be opened: its process died of SIGSEGV in string_at"),
    ],
)
def test_a_device_that_does_not_open_is_one_line(site: Path, backend: str, code: int, line: str) -> None:
    process = begun(site, backend)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    assert err.startswith(line) and err.count("\n") == 1, err
