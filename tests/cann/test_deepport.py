"""deepport on the simulated NPU, by the commands that people use. Evidence is E4: no chip is involved."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from cann.conftest import Run

RUN = ("-m", "deepport.run", "--model", "demo", "--prompt", "Return", "--max-new-tokens", "8")


@pytest.fixture(scope="module")
def text() -> str:
    """What the CPU continues the prompt with."""
    done = subprocess.run([sys.executable, *RUN, "--device", "cpu"], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("options", ["", "--lazy", "--task-queue 1", "--soc A5 --lazy --task-queue 1", "--soc A3"])
def test_greedy_text_is_the_cpu_s(npu: Run, text: str, options: str, tmp_path: Path) -> None:
    counted = tmp_path / "counted"
    done = npu(*RUN, "--device", "npu", options=f"{options} --report {counted}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == text and text.strip()
    assert ", simulated" in done.stderr
    report = json.loads(counted.read_text())
    assert sum(report["operators"].values()) > 1000 and not any("missing" in name for name in report["operators"])


@pytest.mark.slow
def test_backends_and_plan_say_simulated(npu: Run) -> None:
    for arguments in (("backends",), ("plan", "--device", "npu", "--model", "demo")):
        done = npu("-m", "deepport", *arguments, options="--soc A3 --devices 2")
        assert done.returncode == 0, done.stderr
        assert "Ascend910_9382, simulated" in done.stdout + done.stderr


def conform(npu: Run, folder: Path, arguments: Sequence[str], options: str = "") -> dict[str, object]:
    """The record of a conformance run."""
    record = folder / "report.json"
    done = npu("-m", "deepport", "conform", "--device", "npu", "--json", record, *arguments, options=options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    found: dict[str, object] = json.loads(record.read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("options", ["", "--soc A5 --lazy"])
def test_bring_up_conforms_as_a_simulation(npu: Run, tmp_path: Path, options: str) -> None:
    """Every operator and the tiny models. What lacks is declared: AMD's FP8."""
    report = conform(npu, tmp_path, ["--profile", "bring-up"], options)
    results = report["results"]
    assert isinstance(results, list) and len(results) > 400
    assert {r["evidence"] for r in results} == {"E4"}
    others = {r["status"] for r in results if "fp8_e4m3fnuz" not in r["case"]["label"]}
    assert others == {"pass"}
