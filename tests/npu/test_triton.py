"""The Triton kernels on an NPU: asked last, for what Ascend's compiler has accepted; elsewhere they say why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from commands import Deepport
from npu.calls import VERSIONS
from npu.simulated import run

from deepport.backend import accepted as checked
from deepport.kernel import Kernel, Signature, Support
from deepport.op import operators
from deepport.ops.attention import attention_arguments
from deepport.ops.dense import rms_norm_arguments
from deepport.ops.moe import experts_arguments, swiglu_arguments
from deepport.ops.quantize import dequantize_arguments
from deepport_npu import NpuBackend, triton_ascend
from deepport_npu.capability import FAMILIES
from deepport_npu.kernels import kernels_for
from deepport_npu.kernels.triton import OPERATORS
from deepport_triton import accepted, launch
from deepport_triton.ahead import baseline
from deepport_triton.kernels import KERNELS

BF16 = torch.bfloat16
HERE = VERSIONS | {triton_ascend.NAME: triton_ascend.wanted()}
ATTENTION = {"lengths": (1,), "first": (30,), "scope": "window", "sink": True, "heads": 16, "size": 512, "window": 128}
Builder = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels as a device has them: this process may have imported them to be interpreted."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def kernel(family: str, operator: str, versions: dict[str, str] = HERE) -> Kernel:
    return next(k for k in kernels_for(family, versions) if (k.operator, k.name) == (operator, "triton"))


def asked(family: str, operator: str, builder: Builder, **parameters: Any) -> Support:
    arguments = builder(torch.Generator().manual_seed(0), **parameters)
    of = operators[operator]
    values = tuple(arguments.get(n, of.defaults.get(n)) for n in of.parameters)
    return kernel(family, operator).supports(of.signature(values))


def test_those_that_are_named_without_triton_are_those_that_there_are() -> None:
    assert set(OPERATORS) == {k.operator for k in KERNELS}


@pytest.mark.parametrize("versions", [HERE, VERSIONS])
def test_every_kernel_is_listed_and_asked_last(versions: dict[str, str]) -> None:
    found = checked("npu", kernels_for("A2", versions))
    assert {name for name, of in found.items() if of[-1].name == "triton"} == set(OPERATORS)
    assert not [name for name, of in found.items() if "triton" in [k.name for k in of[:-1]]]


def test_a_call_that_the_compiler_has_accepted_is_taken() -> None:
    for family in FAMILIES:
        assert asked(family, "rms_norm", rms_norm_arguments, shape=(3, 7168), weighted=True, dtype=BF16)
        assert asked(family, "swiglu", swiglu_arguments, shape=(3, 2048), limit=10.0, dtype=BF16)


def test_smaller_blocks_are_taken_and_larger_ones_are_not() -> None:
    assert asked("A2", "rms_norm", rms_norm_arguments, shape=(3, 24), weighted=True, dtype=BF16)
    large = asked("A2", "rms_norm", rms_norm_arguments, shape=(3, 1 << 20), weighted=True, dtype=BF16)
    one = asked("A2", "rms_norm", rms_norm_arguments, shape=(3, 1), weighted=True, dtype=BF16)
    for answer, block in ((large, 1 << 20), (one, 1)):
        assert not answer
        said = f"ascend-a2's compiler has not been asked for _rms_norm_rows bf16 fp32 bf16 weighted=True rows=1 block={block}"
        assert (answer.code, answer.reason) == ("shape", said)


def test_another_type_is_another_function() -> None:
    answer = asked("A2", "rms_norm", rms_norm_arguments, shape=(3, 24), weighted=True, dtype=torch.float64)
    assert (answer.code, answer.reason) == ("dtype", "x is float64; the kernel takes float32, float16 and bfloat16")


def test_what_the_compiler_refuses_is_refused_in_its_words() -> None:
    crash = asked("A5", "sparse_attention", attention_arguments, dtype=BF16, **ATTENTION)
    assert crash.reason.startswith("ascend-a5's compiler refuses _attention_token: the compiler crashes: Assertion `")
    overflow = asked("A3", "dequantize", dequantize_arguments, shape=(64, 128), format="mxfp4", dtype=BF16)
    assert overflow.code == "device" and "ub overflow, requires 3670016 bits" in overflow.reason
    assert asked("A5", "dequantize", dequantize_arguments, shape=(64, 128), format="mxfp4", dtype=BF16)


def test_more_programs_than_triton_ascend_starts_are_refused() -> None:
    assert asked("A2", "rms_norm", rms_norm_arguments, shape=(65535, 8), weighted=True, dtype=BF16)
    answer = asked("A2", "rms_norm", rms_norm_arguments, shape=(65536, 8), weighted=True, dtype=BF16)
    assert answer.code == "shape"
    assert answer.reason == "_rms_norm_rows would be 65536 programs; triton-ascend starts at most 65535"


def test_one_of_several_launches_that_is_refused_is_a_refusal() -> None:
    """Scores are accepted on A2, and what chooses by them is not."""
    found = accepted.asked("ascend-a2")
    assert not [a for a in found["_score_block"] if a.reason] and all(a.reason for a in found["_select_tokens"])
    served, _ = plan("910B", "v4-flash")
    assert served["index_topk"] == "npu/npu_lightning_indexer"


def test_a_refusal_of_the_very_launch_outweighs_a_larger_one_that_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function may be asked for twice with the same constants, by numbers that are 1, and be refused once."""
    types = ("bf16", "fp32", "bf16")
    larger = accepted.Asked(types, {"weighted": "True", "rows": "1", "block": "64"}, "")
    refused = accepted.Asked(types, {"weighted": "True", "rows": "1", "block": "32"}, "no room")
    monkeypatch.setattr(accepted, "asked", lambda target: {"_rms_norm_rows": (larger, refused)})
    accepted._accepted.cache_clear()
    call = {"weighted": True, "dtype": BF16}
    assert asked("A2", "rms_norm", rms_norm_arguments, shape=(3, 16), **call)
    answer = asked("A2", "rms_norm", rms_norm_arguments, shape=(3, 24), **call)
    assert answer.reason == "ascend-a2's compiler refuses _rms_norm_rows: no room"
    accepted._accepted.cache_clear()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_accepted_and_computes_something_else_is_refused(family: str) -> None:
    """Experts of MXFP4: by the IR that triton-ascend makes, what was loaded is never used (`deepport compile --execute`)."""
    sizes = {"tokens": 9, "k": 3, "experts": 8, "ids": "distinct", "dtype": BF16}
    answer = asked(family, "moe_experts", experts_arguments, format="mxfp4", **sizes)
    assert answer.code == "format" and answer.reason.startswith("_gate_up_tile of mxfp4: triton-ascend 3.2.0 drops")
    assert "drops" not in asked(family, "moe_experts", experts_arguments, format="plain", **sizes).reason


def test_every_baseline_row_is_read_as_it_was_compiled() -> None:
    for target, rows in baseline.read().targets.items():
        if target.startswith("ascend"):
            found = accepted.asked(target)
            assert sum(map(len, found.values())) == len(rows)
            assert {a.reason for of in found.values() for a in of} == {kept.get("reason", "") for kept in rows.values()}


ABSENT = f"pip install triton-ascend=={triton_ascend.wanted()} pybind11"
STATES: dict[str, tuple[dict[str, str], dict[str, str], str]] = {
    "absent": ({}, {}, f"triton-ascend is not installed: {ABSENT}"),
    "only the other": ({}, {"triton": "3.7.1"}, f"triton-ascend is not installed: {ABSENT}"),
    "both": (
        {}, {"triton": "3.7.1", "triton-ascend": "3.2.0"},
        f"triton-ascend and triton 3.7.1 are installed over each other: pip uninstall both, then {ABSENT}",
    ),
    "another": (
        {triton_ascend.NAME: "3.1.0"}, {},
        f"triton-ascend is 3.1.0, and {triton_ascend.wanted()} has accepted the kernels: {ABSENT}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("state", STATES)
def test_where_they_cannot_serve_they_say_what_to_do(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    versions, installed, said = STATES[state]
    monkeypatch.setattr(triton_ascend, "package_version", lambda name: installed.get(name, ""))
    for name in OPERATORS:
        answer = kernel("A2", name, VERSIONS | versions).supports(Signature(name, {}))
        assert (answer.code, answer.reason) == ("version", said)


def test_a_triton_that_cannot_be_imported_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ModuleNotFoundError("No module named 'pybind11'")

    monkeypatch.setattr(triton_ascend, "import_module", broken)
    answer = kernel("A2", "swiglu").supports(Signature("swiglu", {}))
    assert answer.reason == "triton cannot be imported: ModuleNotFoundError: No module named 'pybind11'"


def test_interpreted_kernels_serve_no_npu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    answer = kernel("A2", "swiglu").supports(Signature("swiglu", {}))
    assert answer.reason == "TRITON_INTERPRET=1 has kernels interpreted, on the CPU"


def test_the_backend_says_which_is_installed_and_doctor_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert triton_ascend.NAME not in NpuBackend().probe().versions
    found = triton_ascend.finding("")
    assert found.advice and "references compute what CANN has no operator for" in found.found and found.fix == ABSENT
    there = {"triton-ascend": triton_ascend.wanted()}
    monkeypatch.setattr(triton_ascend, "package_version", lambda name: there.get(name, ""))
    assert NpuBackend().probe().versions[triton_ascend.NAME] == triton_ascend.wanted()
    assert not triton_ascend.finding(triton_ascend.version()).advice


def plan(chip: str, model: str) -> tuple[dict[str, str], str]:
    from deepport.command.plan import make_plan
    from deepport.command.request import Policy
    from deepport.paper import OnPaper

    server = OnPaper("npu", chip)
    found = make_plan(model, "bfloat16", server, Policy(), 512)
    rows = [*found.prefill.rows, *found.decode.rows]
    return {r.operator: r.implementation for r in rows}, server.basis


@pytest.mark.parametrize("chip", ["910B", "910C", "A5"])
def test_on_paper_they_serve_what_the_vendor_has_no_operator_for(chip: str) -> None:
    served, basis = plan(chip, "v4-flash-engram")
    assert basis.endswith(f"and triton-ascend {triton_ascend.wanted()}")
    alone = ("engram_hash", "engram_gather", "engram_gate", "compress_kv_", "mhc_head", "write_pages_")
    assert {served[name] for name in alone} == {"npu/triton"}
    assert served["rms_norm"] == "npu/npu_rms_norm"
    assert served["mhc_pre"] == ("npu/npu_mhc_pre" if chip == "A5" else "npu/triton")


def test_a_plan_gives_the_compiler_s_reason(command: Deepport) -> None:
    asking = ("plan", "--device", "npu", "--soc", "A5", "--model", "v4-flash", "--dtype", "bfloat16", "--json")
    ended = command(*asking)
    assert ended.code == 0, ended.err
    said = [reason for r in json.loads(ended.out)["decode"] for name, reason in r["refusals"] if name == "npu/triton"]
    assert any("ascend-a5's compiler refuses _angles_block: " in reason and "fp64" in reason for reason in said)


class Started:
    """In a kernel's place: how it was launched."""

    __name__ = "_copy"

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def run(*arguments: Any, **options: Any) -> None:
            self.options = options

        return run


def test_what_is_no_gpu_is_told_no_warps() -> None:
    started = Started()
    launch.launch(started, (1,), torch.zeros(2), warps=8, block=16)
    assert started.options == {"block": 16}


def test_a_tensor_that_lies_elsewhere_is_refused() -> None:
    with pytest.raises(ValueError, match="_copy: tensors lie on cpu and meta; a kernel addresses its own device"):
        launch.launch(Started(), (1,), torch.zeros(2), torch.zeros(2, device="meta"))


def test_launches_are_made_on_the_npu_of_the_tensors() -> None:
    made, refused = run("launches", options="--devices 2").splitlines()
    assert made == "1 {'block': 16} 0"
    assert refused == "_copy: tensors lie on cpu and npu:1; a kernel addresses its own device's memory only"
