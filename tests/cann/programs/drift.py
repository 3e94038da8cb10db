"""aclnnAdd(self, other, alpha, out) and aclnnSoftmax(self, dim, out), read by right and wrong signatures."""

import dataclasses
import json
from collections.abc import Callable

import torch
import torch_npu  # noqa: F401  (registers the device)

x = torch.ones(3, device="npu")

import cann.started  # noqa: E402, F401  (the device is open: its operators are declared)
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


def refused(*arguments: object) -> None:
    raise Refused("it is not taken")


def main() -> None:
    told = {
        "aclnnAdd": {s: read_by("aclnnAdd", s, lambda: x + x) for s in ADD},
        "aclnnSoftmax": {s: read_by("aclnnSoftmax", s, lambda: torch.softmax(x, 0)) for s in SOFTMAX},
    }
    operators["aclnnAbs"] = dataclasses.replace(operators["aclnnAbs"], check=refused)
    try:
        x.abs()
    except RuntimeError as error:
        told["check"] = {"text": str(error)}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
