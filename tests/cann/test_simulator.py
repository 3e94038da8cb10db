"""The simulator itself: what it says of its device, what it refuses, when work happens. Programs are in programs/."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cann import build, wheel
from cann.conftest import Program, Run

FOUR_BYTES_OF_POISON = "-431602080.0"


def test_the_device_is_what_was_asked_for(program: Program) -> None:
    told = program("device", "--soc A3 --devices 2 --memory 1")
    assert (told["name"], told["count"], told["total"]) == ("Ascend910_9382", 2, 1 << 30)
    assert program("device")["name"] == "Ascend910B2"


def test_fresh_memory_is_poisoned(program: Program) -> None:
    assert program("device")["poison"] == [0xCD]


def test_copies_are_checked_against_memory(program: Program) -> None:
    invalid = 107000
    assert program("device")["copies"] == {
        "right": 0,
        "wrong way": invalid,
        "device is host": invalid,
        "past the end": invalid,
        "past the end, to the device": invalid,
    }


def test_what_is_not_there_says_so(program: Program) -> None:
    told = program("device", "--soc A3 --devices 2 --memory 1")
    assert told["too much"].startswith("NPU out of memory. Tried to allocate 1.00 GiB")
    assert "there is no device 7: the simulator has 2" in told["no such device"]
    assert "Expected all tensors to be on the same device" in told["two devices"]
    assert (
        "aclnnAcosh is not in the CANN simulator; the call began with: T T pointer pointer"
        in told["not in the simulator"]
    )
    assert told["refused symbol"] == 207000  # feature not supported


def test_nothing_falls_back_to_the_cpu(program: Program) -> None:
    assert "CPU fallback is disabled by TORCH_NPU_FALLBACK_CPU_DISABLE=1" in program("device")["no such operator"]


@pytest.mark.parametrize("options", ["", "--lazy --task-queue 1"])
def test_a_fallback_to_the_cpu_is_counted(program: Program, options: str) -> None:
    """With the switch off torch_npu falls back, and its copies there and back are told from those that a program asks for."""
    told = program("fallback", options)
    assert told["right"] and told["asked for"] == 0
    assert told["by a fallback"] >= 2


RIGHT = {"streams": 6.0, "host": 6.0, "chain": 204.0}


@pytest.mark.parametrize("options", ["", "--lazy", "--task-queue 1", "--lazy --task-queue 1"])
def test_a_program_that_waits_is_right_whenever_work_happens(program: Program, options: str) -> None:
    told = program("streams", options)
    assert {name: told[name] for name in RIGHT} == RIGHT


def test_a_missing_wait_shows_only_where_work_is_late(program: Program) -> None:
    """The fault is planted in the program; the lazy scheduler makes it visible every time."""
    eager, lazy = program("streams", ""), program("streams", "--lazy")
    assert (eager["streams, no wait"], eager["host, no wait"]) == ("6.0", 6.0)
    assert (lazy["streams, no wait"], lazy["host, no wait"]) == (FOUR_BYTES_OF_POISON, 0.0)


@pytest.mark.parametrize(
    ("operator", "signature", "complaint"),
    [
        ("aclnnAdd", "T T S | T", ""),
        ("aclnnAdd", "T T S | T?", ""),
        ("aclnnAdd", "T T? S? | T", ""),
        ("aclnnAdd", "T T | T", "argument 3 of 'T T | T' should be aclTensor*, but S came; the call began with: T T S T pointer"),
        ("aclnnAdd", "T S | T", "argument 2 of 'T S | T' should be aclScalar*, but T came"),
        ("aclnnAdd", "T T S | L", "argument 4 of 'T T S | L' should be aclTensorList*, but T came"),
        ("aclnnAdd", "T T l | T", "argument 3 of 'T T l | T' should be int64_t, but aclScalar* came"),
        ("aclnnAdd", "T T S T | T", "argument 5 of 'T T S T | T' should be aclTensor*, but pointer came"),
        ("aclnnAdd", "T T S | T s", "expected aclOpExecutor** executor after 'T T S | T s', but"),
        ("aclnnSoftmax", "T l | T", ""),
        ("aclnnSoftmax", "T T | T", "argument 2 of 'T T | T' should be aclTensor*, but null came; the call began with: T 0 T"),
        ("aclnnSoftmax", "T l I | T", "argument 3 of 'T l I | T' should be aclIntArray*, but T came"),
    ],
)  # fmt: skip
def test_a_signature_that_drifted_is_refused(program: Program, operator: str, signature: str, complaint: str) -> None:
    """What is planted here is what a new torch_npu may do: the call is not what its operator's declaration says."""
    text = program("drift")[operator][signature]
    assert text.startswith(f"{operator}: {complaint}") if complaint else text == ""


def test_results_are_variables_of_the_caller(program: Program) -> None:
    text = program("drift")["elsewhere"]["text"]
    assert text.startswith("expected uint64_t* workspaceSize after 'l l', but pointer came")


def test_an_operator_s_check_is_the_vendor_s_refusal(program: Program) -> None:
    text = program("drift")["check"]["text"]
    assert "call aclnnAbs failed, error code is 161002" in text and text.endswith("aclnnAbs: it is not taken")


def functions(program: Program) -> list[dict[str, Any]]:
    """The chips on which torch_npu takes different ways."""
    return [program("functions", f"--soc {soc}") for soc in ("A2", "A5")]


@pytest.mark.slow
def test_plain_torch_on_the_device_is_plain_torch(program: Program) -> None:
    for told in functions(program):
        assert told["count"] > 300 and told["wrong"] == {}
        deviation, largest, total, integer, drawn = told["random"]
        assert 0.8 < deviation < 1.2 and 0.9 < largest < 1 and (total, integer, drawn) == (36, 4, 6)


@pytest.mark.slow
def test_every_operator_of_plain_torch_is_called(program: Program) -> None:
    """A declaration that nothing calls has a signature that nobody has seen. Fused operators are called by kernels' tests."""
    a2, a5 = functions(program)
    plain = {name for name, module in a2["declared"].items() if not module.startswith("cann.ops.fused")}
    assert plain - set(a2["called"]) - set(a5["called"]) == set()


def test_every_declared_operator_is_one_that_torch_npu_looks_up(program: Program, libraries: Path) -> None:
    known = set(re.findall(r", (\w+)\)", (libraries / "operators.inc").read_text()))
    assert len(known) > 800
    assert set(program("functions", "--soc A2")["declared"]) - known == set()


def test_the_symbol_says_what_it_is(libraries: Path) -> None:
    done = subprocess.run(["nm", "-D", libraries / "libascendcl.so"], capture_output=True, text=True, check=True)
    assert re.search(r" [BD] deepport_cann_simulator$", done.stdout, re.MULTILINE)


def test_a_symbol_that_nobody_wrote_is_refused_by_name(libraries: Path) -> None:
    refused = re.findall(r"REFUSED\((\w+)\)", (libraries / "refused.inc").read_text())
    assert "aclrtMapMem" in refused and "aclrtMalloc" not in refused


def test_no_compiler_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    with pytest.raises(wheel.Missing, match=r"g\+\+ is not installed"):
        build.build(tmp_path, tmp_path / "out")


def test_a_folder_without_torch_npu_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(wheel.FOLDER, str(tmp_path))
    with pytest.raises(wheel.Missing, match="has no torch_npu in it"):
        wheel.wheel()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("--soc A9", "cann.run: no chip is called 'A9'; there are A2 (Ascend910B2), A3 (Ascend910_9382), A5"),
        ("--fault aclnnMm@x", "cann.run: 'aclnnMm@x' is not a fault; it should look like aclnnMm@3=561000"),
    ],
)
def test_wrong_options_are_one_line(npu: Run, options: str, complaint: str) -> None:
    done = npu("-c", "pass", options=options)
    assert done.returncode == 1 and done.stderr.startswith(complaint) and done.stderr.count("\n") == 1
