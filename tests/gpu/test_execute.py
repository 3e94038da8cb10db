"""Ascend's IR executed on this processor: how functions are called, what counts as evidence, and that a wrong result is seen.

That the kernels' own IR runs and is right is `ci/compile execute`, which needs triton-ascend and LLVM.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Deepport

from deepport.errors import BackendUnavailable
from deepport.kernel import Kernel
from deepport.op import operators
from deepport_triton.ahead import baseline, execute, npu, x86
from deepport_triton.ahead.baseline import Baseline
from deepport_triton.ahead.execute import Executed, Task
from deepport_triton.ahead.executor import executed
from deepport_triton.ahead.host import Host, NotHere
from deepport_triton.ahead.target import TARGETS
from deepport_triton.kernels import KERNELS
from deepport_triton.launch import Launch

A2 = TARGETS["ascend-a2"]


def _add(x, n, one, by, block): ...


class Function:
    """In the place of a Triton function: its name and parameters."""

    fn, __name__ = _add, "_add"
    arg_names = ("x", "n", "one", "by", "block")


SOURCE = """
#include <stdint.h>
typedef struct { float *allocated, *aligned; int64_t offset, size, stride; } memory;
void _add(char *l0, char *l1, int64_t l2, int64_t l3, int64_t l4, char *w0, char *w1, int64_t w2, int64_t w3, int64_t w4,
          float *a, float *x, int64_t offset, int64_t size, int64_t stride, int32_t n, float by,
          int32_t gx, int32_t gy, int32_t gz, int32_t px, int32_t py, int32_t pz) {
  if (offset == 0 && stride == 1 && size == 4 && n == 4 && a == x && gx == 2 && gy == 2 && gz == 1 && pz == 0)
    x[2 * py + px] = by + 10 * py + px;
}
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
def test_a_function_is_called_for_every_program_with_what_it_takes(tmp_path: Path) -> None:
    """Constants are no arguments, nor are numbers that are 1; the vendor's lock and workspace come first, the grid last."""
    library = tmp_path / "add.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", library], input=SOURCE, text=True, check=True)
    asked: list[dict[str, Any]] = []

    def ask(message: dict[str, Any]) -> dict[str, Any]:
        asked.append(message)
        return {"library": str(library)}

    host, x = Host(A2, ask), torch.zeros(4)
    host.launch(Launch(Function, (2, 2), (x, 4, 1, 0.5), {"block": 16}, 4, 2))
    assert x.tolist() == [0.5, 1.5, 10.5, 11.5]
    host.launch(Launch(Function, (0,), (x, 4, 1, 9.5), {"block": 16}, 4, 2))
    assert x.tolist() == [0.5, 1.5, 10.5, 11.5]
    assert len(asked) == 1 and asked[0]["target"]["compiler"] == "x86"
    assert asked[0]["job"]["constants"] == {"block": 16, "one": 1}


def test_what_cannot_be_lowered_is_told_with_its_function() -> None:
    with pytest.raises(NotHere, match=r"^_add: error: no such operation$"):
        Host(A2, lambda message: {"reason": "error: no such operation"}).prepare(
            [Launch(Function, (1,), (torch.zeros(4), 4, 1, 0.5), {"block": 16}, 4, 2)]
        )


class Idle(Host):
    """Makes no launch."""

    def __init__(self, reason: str = "") -> None:
        self.reason = reason

    def prepare(self, launches: Any) -> None:
        if self.reason:
            raise NotHere(self.reason)

    def launch(self, launch: Launch) -> None:
        pass


def _kernel(operator: str) -> Kernel:
    return next(k for k in KERNELS if k.operator == operator)


def test_results_that_nobody_computed_fail_the_gates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    case = list(operators["swiglu"].cases)[-1]
    assert executed(_kernel("swiglu"), case, "ascend-a2", Idle())["failed"]
    assert executed(_kernel("swiglu"), case, "ascend-a2", Idle("_swiglu_block: no")) == {"reason": "_swiglu_block: no"}


def test_what_the_compiler_refuses_is_not_executed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    found = executed(_kernel("index_topk"), next(iter(operators["index_topk"].cases)), "ascend-a2", Idle())
    assert "ascend-a2's compiler" in found["reason"]


TASK = Task("swiglu", "shape=3x8", "ascend-a2")
PASSED, OTHER = Executed(TASK), Executed(Task("swiglu", "shape=1x8", "ascend-a2"), "_swiglu_block: error: no")


def held() -> Baseline:
    found = Baseline()
    found.take_executed([PASSED, OTHER])
    return found


def test_the_same_is_no_change_and_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert held().executed == {"ascend-a2": {"swiglu": {"_swiglu_block: error: no": ["shape=1x8"]}}}
    assert not list(held().changes([PASSED, OTHER]))
    baseline.write(held(), tmp_path / "b.json")
    assert baseline.read(tmp_path / "b.json") == held()


CHANGED = {
    "wrong": (Executed(TASK, failed=("y: off",)), "wrong: y: off (before: passed)"),
    "refused": (Executed(TASK, "no tool"), "no tool (before: passed)"),
    "new": (Executed(Task("linear", "x", "ascend-a2")), "is not in the baseline; --update"),
    "better": (Executed(OTHER.task), "passes now; --update (before: _swiglu_block: error: no)"),
}


@pytest.mark.parametrize("what", CHANGED)
def test_every_change_is_told(what: str) -> None:
    row, said = CHANGED[what]
    (told,) = held().changes([row])
    assert told == f"ascend-a2: {row.task.operator}: {row.task.case}: {said}"


def test_a_running_sum_has_a_body() -> None:
    declared = (
        "  func.func private @triton_cumsum_0(tensor<2x8xi32>, i32, i1) -> tensor<2x8xi32>\n  gpu.barrier\n  return"
    )
    text = x86._meant(declared)
    assert "gpu.barrier" not in text
    assert text.count("scf.for") == 2 and "arith.addi %own, %sum : i32" in text and "tensor<2x8xi32>" in text


def test_the_committed_cases_are_the_operators_own() -> None:
    """No result is wrong, every operator was executed, and no case is named that there is not."""
    found = baseline.read().executed
    assert "ascend-a2" in found
    for target, of in found.items():
        assert set(of) == {k.operator for k in KERNELS}, target
        for operator, reasons in of.items():
            labels = {case.label for case in operators[operator].cases}
            assert not [c for cases in reasons.values() for c in cases if c not in labels]
            assert not [reason for reason in reasons if reason.startswith("wrong: ") or "/work" in reason]


MISTAKES = {
    "gpu": (("--target", "sm_90"), 2, "--execute runs what Ascend's compiler is given; sm_90 is none of ascend-a2,"),
    "brief": (("--brief",), 2, "--brief chooses among what is compiled, and --execute runs all cases"),
    "operator": (("--operator", "attention"), 2, "attention"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str, command: Deepport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    arguments, code, said = MISTAKES[mistake]
    ended = command("compile", "--execute", *arguments)
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.startswith("deepport: ") and said in ended.err


def test_missing_tools_say_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(npu, "process", lambda: ("python", ""))
    monkeypatch.setattr(execute, "TOOLS", tmp_path)
    with pytest.raises(BackendUnavailable, match="mlir-opt does not exist; apt-get install mlir-19-tools llvm-19"):
        execute.tools()


def test_the_c_of_memory_copies_compiles(tmp_path: Path) -> None:
    """It copies between memories whose strides differ."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    subprocess.run(["gcc", "-Wall", "-Werror", "-shared", "-fPIC", x86._COPY, "-o", tmp_path / "c.so"], check=True)
    source, target = torch.arange(6.0).view(2, 3), torch.zeros(3, 2)

    class Memory(ctypes.Structure):
        _fields_ = (("a", ctypes.c_void_p), ("b", ctypes.c_void_p), ("o", ctypes.c_int64), ("n", ctypes.c_int64 * 4))

    class Unranked(ctypes.Structure):
        _fields_ = (("rank", ctypes.c_int64), ("of", ctypes.POINTER(Memory)))

    def of(t: torch.Tensor, *numbers: int) -> Unranked:
        memory = Memory(t.data_ptr(), t.data_ptr(), 0, (ctypes.c_int64 * 4)(*numbers))
        return Unranked(2, ctypes.pointer(memory))

    ctypes.CDLL(str(tmp_path / "c.so")).memrefCopy(
        ctypes.c_int64(4), ctypes.byref(of(source, 2, 3, 3, 1)), ctypes.byref(of(target, 2, 3, 1, 2))
    )
    assert torch.equal(target, source.t())
