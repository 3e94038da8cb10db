"""aclnnAdd(self, other, alpha, out) and aclnnSoftmax(self, dim, out), read by right and wrong signatures."""

import ctypes as C
import dataclasses
import json
from collections.abc import Callable

import torch
import torch_npu  # noqa: F401  (registers the device)

x = torch.ones(3, device="npu")

import cann.started  # noqa: E402, F401  (the device is open: its operators are declared)
from cann import wire  # noqa: E402
from cann.dispatch import Refused, operators  # noqa: E402

ADD = (
    "T T S | T",
    "T T | T",
    "T T T | T",
    "T S | T",
    "T T S T | T",
    "T T S | L",
    "T T l | T",
    "T T S | T s",
    "T T S | T?",
    "T T? S? | T",
)
SOFTMAX = ("T l | T", "T T | T", "l l | T", "T l I | T")


def read_by(name: str, signature: str, call: Callable[[], object]) -> str:
    right = operators[name]
    operators[name] = dataclasses.replace(right, signature=signature)
    try:
        call()
    except RuntimeError as error:
        return " ".join(str(error).split("CANN simulator: ")[-1].split())
    finally:
        operators[name] = right
    return ""


def zeros_elsewhere() -> str:
    """A call whose last two words are addresses of zeros, as they may lie on any stack, but not variables of its caller."""
    memory = (C.c_uint64 * 1024)()
    zeros = C.addressof(memory) + wire.FRAME
    words = (C.c_uint64 * 6)(1, 2, zeros, zeros + 8)
    try:
        wire.arguments("l l", wire.Call(words, (C.c_uint64 * 8)(), C.cast(memory, C.POINTER(C.c_uint64))))
    except wire.Drift as drift:
        return str(drift)
    return ""


def refused(*arguments: object) -> None:
    raise Refused("it is not taken")


def main() -> None:
    told = {
        "aclnnAdd": {s: read_by("aclnnAdd", s, lambda: x + x) for s in ADD},
        "aclnnSoftmax": {s: read_by("aclnnSoftmax", s, lambda: torch.softmax(x, 0)) for s in SOFTMAX},
    }
    operators["aclnnAbs"] = dataclasses.replace(operators["aclnnAbs"], check=refused)
    told["elsewhere"] = {"text": zeros_elsewhere()}
    try:
        x.abs()
    except RuntimeError as error:
        told["check"] = {"text": str(error)}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
