"""What is kept of a compiler's pages is the line that a person would look for, and nothing of this machine."""

from __future__ import annotations

import pytest

from deepport_triton.ahead.worker import _reason

SAID = {
    "overflow": (
        '[NOTE] Ub overflow detected\nloc("/tmp/tmp4_x/kernel.mlir":2:1): error: Failed to run BiShengHIR pipeline\n'
        'loc("/tmp/tmp4_x/kernel.mlir":3:3): error: ub overflow, requires 3670016 bits\n[ERROR] Failed to run pipeline\n',
        'loc("kernel.mlir":3:3): error: ub overflow, requires 3670016 bits',
    ),
    "place": (
        "/a/b-c/deepport_triton/kernels/ragged.py:11:37: error: failed to legalize\n ... /x\n",
        "ragged.py:11:37: error: failed to legalize",
    ),
    "crash": (
        'tool: /root/llvm/Pattern.cpp:135: void f(Op *): Assertion `a == b && "wrong"\' failed.\n #1 0x00 (/bin/tool+0x1)\n',
        'the compiler crashes: Assertion `a == b && "wrong"\' failed',
    ),
    "plain": ("one\ntwo", "ValueError: two"),
    "nothing": ("", "ValueError: "),
}


@pytest.mark.parametrize("what", SAID)
def test_a_reason_is_one_line(what: str) -> None:
    pages, line = SAID[what]
    assert _reason(ValueError(pages)) == line


def test_the_reason_of_a_function_inside_is_its_own() -> None:
    outer = RuntimeError("def product(x):\n  pages of source")
    outer.__cause__ = AttributeError("'bool' object has no attribute 'logical_or'")
    assert _reason(outer) == "AttributeError: 'bool' object has no attribute 'logical_or'"
