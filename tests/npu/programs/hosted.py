"""The demo model with its memories on the host: prints the greedy texts of NPU and CPU, where parameters lie, what was pinned."""

from __future__ import annotations

import json
from unittest import mock

import torch_npu  # noqa: F401  (registers the device)
from torch import Tensor

import deepport
from deepport_model.model import Model


def text(model: Model) -> str:
    return "".join(model.generate("Return a list of", max_new_tokens=8))


def main() -> None:
    model = deepport.load("demo", device="npu", engram="host")
    pinned: list[bool] = []
    pin = Tensor.pin_memory

    def noted(self: Tensor) -> Tensor:
        found = pin(self)
        pinned.append(found.is_pinned())
        return found

    with mock.patch.object(Tensor, "pin_memory", noted):
        told = {"npu": text(model), "cpu": text(deepport.load("demo", device="cpu"))}
    places = {
        kind: sorted(
            {p.device.type for n, p in model.transformer.named_parameters() if (".engram.table." in n) == hosted}
        )
        for kind, hosted in (("tables", True), ("others", False))
    }
    print(json.dumps({**told, **places, "pinned": pinned}))


if __name__ == "__main__":
    main()
