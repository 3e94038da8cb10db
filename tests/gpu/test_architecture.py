"""What cuda and rocm make of the Triton kernels: for whom they are compiled, and what is said where they cannot serve."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from commands import Deepport

from deepport.errors import BadInput
from deepport.kernel import signature_of
from deepport_cuda import CudaBackend
from deepport_rocm import RocmBackend
from deepport_triton import architecture
from deepport_triton.architecture import AMD, CONFIGURATIONS, GAPS, NVIDIA, kernels_for
from deepport_triton.launch import launch, noted

CALL = signature_of("swiglu", {"gate": torch.ones(2, 4), "up": torch.ones(2, 4), "limit": None})


@pytest.fixture(autouse=True)
def compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def answer(*architectures: str) -> tuple[bool, str]:
    """What the kernel of swiglu says on these devices."""
    kernel = next(k for k in kernels_for(architectures, NVIDIA) if k.operator == "swiglu")
    found = kernel.supports(CALL)
    return bool(found), found.reason


def test_kernels_serve_what_they_are_compiled_for() -> None:
    assert answer("sm_80", "sm_100") == (True, "")
    assert answer("sm_80", "sm_75") == (
        False, "sm_75 is none of sm_80, sm_90, sm_100, sm_120: nobody compiled for it"
    )  # fmt: skip


def test_interpreted_kernels_serve_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert answer("sm_90") == (False, "TRITON_INTERPRET=1 has kernels interpreted, on the CPU")


@pytest.mark.parametrize("backend", [CudaBackend(), RocmBackend()])
def test_without_triton_references_serve_and_doctor_says_so(
    backend: CudaBackend | RocmBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert backend.kernels()
    monkeypatch.setattr(architecture, "find_spec", lambda name: None)
    assert backend.kernels() == ()
    assert "triton" not in backend.probe().versions
    (found,) = [f for f in backend.diagnose() if f.check == "triton"]
    assert found.advice and "references compute every operator" in found.found and "deepport[triton]" in found.fix


@pytest.mark.parametrize(("device", "chip"), [("cuda", "sm_90"), ("rocm", "gfx942")])
def test_a_model_is_planned_for_a_gpu_that_is_not_here(device: str, chip: str, command: Deepport) -> None:
    ended = command("plan", "--device", device, "--soc", chip, "--model", "v4-flash", "--dtype", "bfloat16", "--json")
    assert ended.code == 0, ended.err
    served = {row["operator"]: row["implementation"] for row in json.loads(ended.out)["decode"]}
    assert served["sparse_attention"] == served["moe_experts"] == f"{device}/triton"


def test_an_architecture_that_nobody_knows_is_one_line() -> None:
    with pytest.raises(
        BadInput, match="--soc sm_91: no architecture is called so; there are: sm_80, sm_90, sm_100, sm_120"
    ):
        CudaBackend().on_paper("sm_91")


def test_tables_speak_of_architectures_that_there_are() -> None:
    known = {*NVIDIA, *AMD}
    assert {a for of in CONFIGURATIONS.values() for a in of} | set(GAPS) <= known


@pytest.mark.parametrize(("chip", "slice"), [("gfx1100", 64), ("gfx942", 512)])
def test_a_launch_has_the_constants_of_its_architecture(chip: str, slice: int) -> None:
    with noted(chip) as launches:
        launch(SimpleNamespace(__name__="_attention_token"), (1,), slice=512, parts=2)
    assert [made.constants for made in launches] == [{"slice": slice, "parts": 2}]
