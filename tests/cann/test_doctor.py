"""`deepport doctor --device npu` with the real torch_npu on simulated chips, well and broken."""

import json
from typing import Any

import pytest

from cann.conftest import Run


def told(npu: Run, options: str, *arguments: str) -> tuple[int, dict[str, Any], dict[str, dict[str, Any]]]:
    done = npu("-m", "deepport", "doctor", "--device", "npu", "--json", *arguments, options=options)
    found = json.loads(done.stdout)
    return done.returncode, found, {f["check"]: f for f in found["findings"]}


@pytest.mark.parametrize(
    ("soc", "chip", "options"),
    [("A2", "Ascend910B", ""), ("A3", "Ascend910_93", "--lazy"), ("A5", "Ascend950", "--lazy --task-queue 1")],
)
def test_a_healthy_chip_is_named_as_simulated(npu: Run, soc: str, chip: str, options: str) -> None:
    code, found, checks = told(npu, f"--soc {soc} --memory 2 {options}")
    assert (code, found["works"]) == (0, True)
    assert f"0 is {chip}" in checks["devices"]["found"]
    assert checks["devices"]["found"].endswith(f", simulated ({soc})")
    assert "evidence of no chip" in checks["simulator"]["found"]
    assert checks["driver"]["found"] == "a simulator needs none"
    assert checks["torch_npu with CANN"]["state"] == "ok"
    assert checks["memory"]["found"].endswith("of 2.15 GB are free")
    assert {checks[check]["state"] for check in ("start", "memory", "compute", "HCCL")} == {"ok"}


def test_the_version_of_cann_is_the_running_one(npu: Run) -> None:
    _, _, checks = told(npu, "--soc A2 --cann 8.5.0")
    assert checks["CANN"]["found"] == "8.5.0"
    assert "it is said to run with 8.5.0" in checks["torch_npu with CANN"]["found"]


@pytest.mark.parametrize(
    ("options", "said", "fix"),
    [
        ("--fault aclnnMatmul@1=561000", "aclnnMatmul", "install the toolkit's operators for this chip"),
        ("--fault device@1", "", "install the toolkit's operators for this chip"),
        ("--memory 0.001", "out of memory", "end what uses its memory"),
    ],
)
def test_a_chip_that_opens_and_cannot_compute(npu: Run, options: str, said: str, fix: str) -> None:
    code, found, checks = told(npu, f"--soc A2 {options}")
    assert (code, found["works"]) == (3, False)
    assert checks["start"]["state"] == "ok"
    assert checks["compute"]["state"] == "not ok"
    assert said in checks["compute"]["found"]
    assert fix in found["fix"]


def test_a_second_device(npu: Run) -> None:
    done = npu("-m", "deepport", "doctor", "--device", "npu:1", options="--soc A2 --devices 2")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].startswith("deepport run --device npu:1 works here (simulated)")
    assert npu("-m", "deepport", "doctor", "--device", "npu:2", options="--soc A2 --devices 2").returncode == 3
