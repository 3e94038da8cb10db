"""The simulated accelerator as a backend: found, shown as simulated, never chosen by itself, and absent from wheels."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

import deepport_sim
from deepport.errors import BadInput
from deepport.probing import TorchBuild
from deepport_sim import Settings, SimBackend
from deepport_sim.build import missing
from sim.conftest import Run

ROOT = Path(__file__).parents[2]


def test_backends_and_doctor_show_it_as_simulated(sim: Run) -> None:
    listed = sim("-m", "deepport", "backends").stdout
    assert "2 x simulated accelerator" in listed
    told = sim("-m", "deepport", "doctor", "--device", "sim:1")
    assert told.returncode == 0, told.stdout
    assert "deepport run --device sim:1 works here (simulated)" in told.stdout
    assert "evidence of no chip" in told.stdout


def test_memory_is_that_of_the_device_that_was_named(sim: Run) -> None:
    told = sim("-m", "deepport.run", "--device", "sim:1", "--model", "tiny", "--random-prompt", "4", "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["peak_memory_bytes"] > 0


def test_zeros_take_memory_where_they_are_touched(sim: Run) -> None:
    program = """
import torch
from deepport import backend
backend.start("sim")
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
before = resident()
zeros = torch.zeros(20 << 30, dtype=torch.uint8, device="sim")
zeros[5 << 30] = 3
print(zeros[5 << 30].cpu().item(), zeros[7 << 30].cpu().item(), resident() - before < 100 << 20)
del zeros
for size in (1 << 23, 5):  # what was there before is gone
    torch.ones(size, device="sim")
    print(torch.zeros(size, device="sim").cpu().any().item())
print(torch.zeros((), device="sim").cpu().item(), *torch.zeros(0, 4, device="sim").shape)
"""
    done = sim("-c", program, settings="memory=64e9")
    assert done.stdout.splitlines() == ["3 0 True", "False", "False", "0.0 0 4"], done.stderr


def test_it_is_never_chosen_by_itself(sim: Run) -> None:
    chosen = sim("-c", "from deepport import backend; print(backend.choose('auto'), backend.serving('sim').name)")
    assert chosen.stdout.split() == ["cpu", "sim"], chosen.stderr


def test_another_torch_is_refused() -> None:
    (what, remedy), *_ = missing(TorchBuild("2.14.1", "", "", Path()))
    assert "made for torch 2.13, and torch 2.14.1 is installed" in what and remedy == "pip install 'torch==2.13.*'"
    assert next(what for what, _ in missing(None)).endswith("torch is not installed")


def test_ordinary_wheels_are_without_it() -> None:
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert not [p for p in ours["tool"]["scikit-build"]["wheel"]["packages"] if "sim" in p]
    assert "sim" not in ours["project"]["entry-points"]["deepport.backends"]
    own = tomllib.loads((Path(deepport_sim.__file__).parent / "pyproject.toml").read_text())
    assert own["project"]["entry-points"]["deepport.backends"] == {"sim": "deepport_sim:backend"}
    assert (
        "native/*" in own["tool"]["setuptools"]["package-data"]["deepport_sim"]
    )  # its sources, to be built where it is used


def test_settings() -> None:
    assert Settings.parse("") == Settings()
    assert Settings.parse("memory=8e9, staging=warn") == Settings(8_000_000_000, {"staging": "warn"})
    assert SimBackend().simulates == ""  # its tensors are its own: what serves them is looked up by their device


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("implicit-sync=never", "implicit-sync='never': a rule's policy is one of: allow, warn, error"),
        ("memory=much", "memory=much is no number of bytes, such as 8e9"),
        ("staging", "staging='': a rule's policy is one of"),
    ],
)
def test_settings_that_mean_nothing_are_refused(text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        Settings.parse(text)


@pytest.mark.parametrize("name", ["*.cpp", "*.h"])
def test_its_files_are_small(name: str) -> None:
    sizes = {
        f.name: len(f.read_text().splitlines()) for f in (Path(deepport_sim.__file__).parent / "native").glob(name)
    }
    assert sizes and max(sizes.values()) < 300, sizes
