"""Whole models on the simulated accelerator, every rule an error: silent, and equal to the CPU; and the conformance suite."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sim.conftest import Program, Run


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_models_break_no_rule_and_compute_what_the_cpu_does(program: Program, dtype: str) -> None:
    found = program("model", dtype)
    assert found.pop("late") == []
    assert found.keys() == {"device", "host", "training"}
    for part in found.values():
        assert part["found"] == [] and part["count"] >= 9
        assert part["worst"] == 0.0  # the same kernels on the same bits


@pytest.mark.slow
def test_the_demo_runs_with_its_memory_on_the_host(sim: Run) -> None:
    asked = (
        "-m",
        "deepport.run",
        "--prompt",
        "Return a list of",
        "--max-new-tokens",
        "8",
        "--engram",
        "host",
        "--device",
    )
    there, here = sim(*asked, "sim:1"), sim(*asked, "cpu")
    assert there.returncode == 0, there.stderr
    assert there.stdout == here.stdout and there.stdout.strip()
    assert "sim:1 simulated accelerator" in there.stderr and "references 0 of" in there.stderr


@pytest.mark.slow
def test_it_conforms_as_a_simulation(sim: Run, tmp_path: Path) -> None:
    """In everything, gradients and rows past 2^31 elements too, which want room and take none."""
    record = tmp_path / "report.json"
    asked = ("--profile", "training", "--jobs", "2", "--timeout", "200", "--json", record)
    done = sim("-m", "deepport", "conform", "--device", "sim", *asked, settings="memory=200e9")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    results = json.loads(record.read_text())["results"]
    assert len(results) > 1500 and {r["status"] for r in results} == {"pass"}
    assert {r["evidence"] for r in results} == {"E4"}
