"""The suite in a third party's own pytest: one import, one option, its gaps strict, its crashes survived."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest
from distributions import backend_source, write_distribution

from deepport.conformance.result import Report
from deepport.report.files import read

SUITE = "from deepport.conformance.suite import *  # noqa: F403\n"

SETTINGS = """
[pytest]
filterwarnings =
    error
    ignore:Module already imported so cannot be rewritten; _editable_:pytest.PytestAssertRewriteWarning
"""

KERNELS = """
import ctypes

@kernel("rms_norm")
def rows(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    if x.shape[0] == 1:
        raise NotImplementedError("a single row")
    if x.shape == (16, 128) and weight is None and x.dtype == torch.float32:
        ctypes.string_at(0)
    wide = x.float()
    y = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    y = (y if weight is None else weight * y).to(x.dtype).contiguous()
    return y * 1.01 if x.shape == (3, 7) and weight is None else y + 1 if x.dim() == 3 and weight is not None else y

@kernel("swiglu")
def gated(gate: Tensor, up: Tensor, limit: float | None = None) -> Tensor:
    g, u = gate.float(), up.float()
    if limit is not None:
        g, u = g.clamp(max=limit), u.clamp(-limit, limit)
    return (g / (1 + (-g).exp()) * u).to(gate.dtype).contiguous()
"""

GAPS = """(
    Gap("rms_norm", "notimpl", "a single row is to come", "2999-01-01", "https://acme.example/7", "shape=1x*"),
    Gap("rms_norm", "notyet", "closed by the new driver", "2999-01-01", case="shape=0x8,weighted=True,*"),
    Gap("rms_norm", "notyet", "three dimensions", "2020-01-01", case="shape=5x2x64,weighted=True,*"),
    Gap("rms_norm", "never", "a kernel that is gone", "2999-01-01", implementation="acme/rowwise"),
    Gap("rms_nrom", "never", "a slip of the pen", "2999-01-01"),
)"""


@dataclass(frozen=True)
class Ran:
    """How a pytest ended: exit code, what it printed, and by the tests' names: passed, failed, skipped or xfailed, and why."""

    code: int
    out: str
    tests: dict[str, tuple[str, str]]

    def outcome(self, name: str) -> str:
        return self.tests[name][0]


Repository = Callable[..., Ran]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A third party's repository; called, it runs pytest there."""
    folder = tmp_path_factory.mktemp("acme")
    write_distribution(folder / "site", "acme", backend_source("acme", KERNELS, gaps=GAPS))
    files = {
        "pytest.ini": SETTINGS,
        "tests/test_conformance.py": SUITE,
        "twice/test_one.py": SUITE,
        "twice/test_two.py": SUITE,
        "other/test_other.py": "def test_other(): ...\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)

    def call(*options: object, memory: int = resource.RLIM_INFINITY) -> Ran:
        junit = folder / f"{abs(hash(options))}.xml"
        process = subprocess.run(
            [sys.executable, "-m", "pytest", *map(str, options), f"--junitxml={junit}"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder / "site"), "PYTEST_ADDOPTS": ""},
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (memory, resource.RLIM_INFINITY)),
        )
        return Ran(process.returncode, process.stdout + process.stderr, dict(_tests(junit)))

    return call


def _tests(junit: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    if not junit.exists():
        return
    for case in ElementTree.parse(junit).iter("testcase"):
        kinds = {"failure": "failed", "error": "error", "skipped": "skipped"}
        found = next(((kinds[c.tag], c) for c in case if c.tag in kinds), None)
        if found is None:
            yield case.get("name", ""), ("passed", "")
            continue
        kind, child = found
        kind = "xfailed" if child.get("type") == "pytest.xfail" else kind
        yield case.get("name", ""), (kind, f"{child.get('message', '')}\n{child.text or ''}")


BRING_UP = ("tests", "--deepport-device=acme", "--deepport-profile=bring-up")


def labelled(label: str) -> str:
    return f"rms_norm[operator-{label}]"


CRASH = labelled("shape=16x128,weighted=False,dtype=float32")
WRONG = labelled("shape=3x7,weighted=False,dtype=bfloat16")
GAP = labelled("shape=1x5,weighted=True,dtype=float32")
CLOSED = labelled("shape=0x8,weighted=True,dtype=float32")
EXPIRED = labelled("shape=5x2x64,weighted=True,dtype=bfloat16")


@pytest.fixture(scope="module", params=[(), ("-n", "2")], ids=["alone", "xdist"])
def mixed(
    repository: Repository, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Ran, Report]:
    """A run in which something of everything happens, in one process and in several; and its record."""
    path = tmp_path_factory.mktemp("record") / "report.json"
    operator = ("--deepport-operator=rms_norm", f"--deepport-report={path}")
    ran = repository(*BRING_UP, *operator, *request.param)
    return ran, read(path)


@pytest.mark.slow
def test_each_case_is_a_test(mixed: tuple[Ran, Report]) -> None:
    ran, _ = mixed
    counts = {kind: sum(t[0] == kind for t in ran.tests.values()) for kind in ("passed", "failed", "xfailed", "error")}
    # Failing: 2 wrong, 2 closed gaps, 2 expired ones, 1 crash. Expected to: 4 of a single row.
    assert counts == {"passed": 9, "failed": 7, "xfailed": 4, "error": 0}, ran.out
    assert ran.code == 1


@pytest.mark.slow
def test_a_failure_tells_gate_value_bound_and_how_to_see_it_again(mixed: tuple[Ran, Report]) -> None:
    ran, report = mixed
    kind, text = ran.tests[WRONG]
    (result,) = [r for r in report.results if labelled(r.case.label) == WRONG]
    assert kind == "failed"
    assert "acme/rows: fail" in text and "G2 output 0 rms: " in text and ", bound " in text
    assert f"again: deepport repro {result.id} --report " in text
    assert "Traceback" not in ran.out and "outcome.py" not in ran.out


@pytest.mark.slow
def test_a_crash_fails_its_own_test(mixed: tuple[Ran, Report]) -> None:
    ran, _ = mixed
    kind, text = ran.tests[CRASH]
    assert kind == "failed" and "its process died of SIGSEGV in string_at" in text
    assert ran.outcome(labelled("shape=16x128,weighted=True,dtype=float32")) == "passed"


@pytest.mark.slow
def test_gaps_are_strict(mixed: tuple[Ran, Report]) -> None:
    ran, _ = mixed
    kind, text = ran.tests[GAP]
    assert kind == "xfailed"
    for part in ("acme/rows", "notimpl: a single row is to come (until 2999-01-01)", "https://acme.example/7"):
        assert part in text
    assert (
        ran.outcome(CLOSED) == "failed" and "the gap is closed, and its declaration has to go" in ran.tests[CLOSED][1]
    )
    assert ran.outcome(EXPIRED) == "failed" and "the gap was granted until 2020-01-01" in ran.tests[EXPIRED][1]
    assert "PROBLEM the gap of rms_norm (never: a kernel that is gone (until 2999-01-01)) matches no case" in ran.out
    assert "PROBLEM the gap of rms_nrom (never: a slip of the pen (until 2999-01-01)) names no operator" in ran.out


@pytest.mark.slow
def test_the_record_is_the_one_of_deepport_conform(mixed: tuple[Ran, Report]) -> None:
    ran, report = mixed
    assert report.whole and report.complete and report.operators == ("rms_norm",) and report.profile == "bring-up"
    statuses = [r.status for r in report.results]
    counts = {status: statuses.count(status) for status in set(statuses)}
    assert counts == {"pass": 9, "fail": 6, "gap": 4, "error": 1}
    (kernel,) = [k for k in report.kernels if k.operator == "rms_norm"]
    assert kernel.name == "rows" and kernel.takes == 20 and kernel.hash.startswith("sha256:")
    assert report.requested.startswith("pytest tests --deepport-device=acme")
    assert (
        "acme on Acme One does not conform, profile bring-up for rms_norm only: 9 of 20 required cases pass" in ran.out
    )


@pytest.mark.slow
def test_a_backend_that_passes_with_every_mutant_seen(repository: Repository) -> None:
    ran = repository("tests", "--deepport-device=acme", "--deepport-operator=swiglu", "--deepport-mutants")
    mutants = [name for name in ran.tests if name.startswith("swiglu[mutant-")]
    assert ran.code == 1 and mutants and {t[0] for t in ran.tests.values()} == {"passed"}
    assert "PROBLEM the gap of rms_nrom" in ran.out  # and nothing else fails the session
    cases = len(ran.tests) - len(mutants)
    assert f"{cases} of {cases} required cases pass, {cases} by 1 kernel" in ran.out
    assert ".pytest_cache/d/deepport/report.json" in ran.out


@pytest.mark.slow
def test_a_run_that_stops_early_says_what_it_left(repository: Repository, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    ran = repository(*BRING_UP, "--deepport-operator=rms_norm", f"--deepport-report={path}", "-x", "--runxfail")
    assert ran.code == 1 and "incomplete" not in ran.out
    found = read(path)
    assert not found.complete and "were not run" in found.stopped
    assert {r.reason for r in found.results if r.status == "not_run"} == {"pytest did not run it"}
    assert len(found.results) == 20


@pytest.mark.slow
def test_what_cannot_run_here_is_skipped_with_the_reason_and_is_no_pass(repository: Repository) -> None:
    """Far cases in 7 GiB of address space; and as nothing else ran, the session fails."""
    ran = repository("tests", "--deepport-device=acme", "--deepport-operator=write_pages_", "-k", "far", memory=7 << 30)
    assert {t[0] for t in ran.tests.values()} == {"skipped"} and ran.code == pytest.ExitCode.TESTS_FAILED
    assert all("GiB of address space cannot be reserved" in t[1] for t in ran.tests.values())
    assert "PROBLEM no case was executed" in ran.out


def test_without_a_device_it_is_an_error_and_no_skip(repository: Repository) -> None:
    ran = repository("tests")
    assert ran.code == pytest.ExitCode.INTERRUPTED
    assert "the conformance suite needs a device: pytest --deepport-device=D" in ran.out
    assert "Traceback" not in ran.out and "skipped" not in ran.out


USAGE = {
    "--deepport-device=npv": "ERROR: deepport: no backend is called 'npv'; installed: acme, cpu",
    "--deepport-device=cuda": "ERROR: deepport: cuda: ",
    "--deepport-device=acme --deepport-operator=lineer": "ERROR: deepport: --deepport-operator: no operator is called 'lineer'",
    "--deepport-device=acme --deepport-operator=rms_norm --deepport-report=/dev/null/r.json": "ERROR: deepport: [Errno",
    "--deepport-device=acme --deepport-profile=all": "argument --deepport-profile: invalid choice: 'all'",
}


@pytest.mark.parametrize("options", USAGE)
def test_what_is_not_there_is_a_usage_error(repository: Repository, options: str) -> None:
    ran = repository("tests", *options.split())
    assert ran.code == pytest.ExitCode.USAGE_ERROR
    assert USAGE[options] in ran.out and "Traceback" not in ran.out


def test_nothing_that_ran_is_a_failure(repository: Repository) -> None:
    ran = repository("other", "--deepport-device=acme")
    assert ran.outcome("test_other") == "passed" and ran.code == pytest.ExitCode.TESTS_FAILED
    assert "PROBLEM no case was executed: no test file here has: from deepport.conformance.suite import *" in ran.out


def test_nothing_that_was_chosen_is_said(repository: Repository) -> None:
    ran = repository(*BRING_UP, "other", "--deepport-operator=rms_norm", "-k", "other")
    assert ran.code == pytest.ExitCode.OK and "no case was executed: all are deselected" in ran.out


def test_the_suite_is_imported_once(repository: Repository) -> None:
    ran = repository("twice", "--deepport-device=acme", "--deepport-operator=rms_norm", "--deepport-profile=bring-up")
    assert ran.code == pytest.ExitCode.INTERRUPTED
    assert "test_one.py already; once is enough" in ran.out


def test_the_plugin_imports_neither_torch_nor_pydantic() -> None:
    script = (
        "import sys, pytest; before = set(sys.modules); import deepport.conformance.plugin; "
        "print(sorted({m.partition('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "['deepport']"
