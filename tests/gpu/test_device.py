"""On a real GPU, where there is one: the conformance suite by its kernels, a model, and the benchmarks. Evidence E5.

Everywhere else these skip with the probe's reason. No GPU has run them yet: what they find first may be their own faults.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deepport import backend

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

NAMES = ("cuda", "rocm")


@pytest.fixture(params=NAMES)
def device(request: pytest.FixtureRequest) -> str:
    """The name of a backend whose device is here."""
    name: str = request.param
    probe = backend.get(name).probe()
    if not probe.devices:
        pytest.skip(f"{name}: {probe.reason}")
    return name


def deepport(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: this one may interpret kernels."""
    inherited = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "deepport", *map(str, arguments)]
    return subprocess.run(command, env=inherited, cwd=cwd, capture_output=True, text=True, check=False)


def test_the_kernels_conform_on_the_device(device: str, tmp_path: Path) -> None:
    """The report is kept: it names the device and the date."""
    report = Path("conformance-reports").absolute() / f"{device}-device"
    report.parent.mkdir(exist_ok=True)
    files = ("--json", report.with_suffix(".json"), "--html", report.with_suffix(".html"))
    ended = deepport("conform", "--device", device, "--profile", "inference", *files, cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-4000:]
    assert json.loads(report.with_suffix(".json").read_text())["evidence"] == "E5"


def test_a_model_decodes_by_kernels(device: str, tmp_path: Path) -> None:
    options = ("--device", device, "--model", "demo", "--dtype", "bfloat16", "--prompt", "Return", "--json")
    ended = deepport("run", *options, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr[-4000:]


def test_the_benchmarks_believe_themselves(device: str, tmp_path: Path) -> None:
    """Exit code 1 would say that a figure is beyond what the device was seen to do."""
    ended = deepport("bench", "--device", device, "--seconds", "120", "--json", tmp_path / "b.json", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr[-4000:]
    told = json.loads((tmp_path / "b.json").read_text())
    assert told["backend"] == device and told["figures"]
    assert any("triton" in s["implementation"] for f in told["figures"] for s in f["served"])
