"""What kernels keep from calls, as the allocator counts it, beside what they tell: prints both, by operator, as JSON.

In a process of its own: buffers stay as large as any call before has made them.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from deepport import backend, ops
from deepport.op import Operator
from deepport.policy import Session

TOKENS, WIDTH, HIDDEN, EXPERTS, K = 512, 512, 256, 16, 4


class _Allocated(ctypes.Structure):
    """`struct mallinfo2` of malloc.h."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    )  # fmt: skip


def allocated() -> int:
    """Bytes in use, of all threads."""
    ask = ctypes.CDLL(None).mallinfo2
    ask.restype = _Allocated
    found = ask()
    return int(found.uordblks + found.hblkhd)


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.bfloat16)


def linear() -> tuple[Any, ...]:
    return numbers(TOKENS, WIDTH), numbers(1024, WIDTH)


def block_linear() -> tuple[Any, ...]:
    return numbers(TOKENS, 4, WIDTH), numbers(4, 256, WIDTH)


def moe_experts() -> tuple[Any, ...]:
    """All tokens choose the same experts: each thread gathers as many as can be."""
    ids = torch.arange(K, dtype=torch.int32).expand(TOKENS, K).contiguous()
    weights, w13 = torch.rand(TOKENS, K), numbers(EXPERTS, 2 * HIDDEN, WIDTH)
    return numbers(TOKENS, WIDTH), ids, weights, w13, numbers(EXPERTS, WIDTH, HIDDEN), None


CALLS: dict[str, tuple[Operator[..., Any], Callable[[], tuple[Any, ...]]]] = {
    "linear": (ops.linear, linear), "block_linear": (ops.block_linear, block_linear),
    "moe_experts": (ops.moe_experts, moe_experts),
}  # fmt: skip


def main(name: str) -> None:
    operator, make = CALLS[name]
    arguments = make()
    signature = operator.signature(arguments)
    told = backend.start("cpu").kernels[name][0].keeps(signature)
    with Session(backend="cpu"):
        ops.swiglu(numbers(TOKENS, WIDTH), numbers(TOKENS, WIDTH))  # threads have their stacks
        before = allocated()
        operator(*arguments)
    print(json.dumps({"grown": allocated() - before, "told": sum(told.values())}))


if __name__ == "__main__":
    main(*sys.argv[1:])
