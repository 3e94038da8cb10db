"""A whole model on the device and on the CPU: prints where the two differ, and what was found on the way.

Chunked prefill of ragged prompts, decoding in which sequences end at different steps, with the memory on the device and on the
host (whose rows come on a stream of their own), and training steps. `model.py [DTYPE]`.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from deepport import backend
from deepport.conformance.model import CONFIGS, drawn, script
from deepport.table import Placement
from deepport_model.engram import EngramTable
from deepport_model.training import balance, loss, optimizer
from deepport_model.transformer import Transformer
from deepport_sim import device

CONFIG = CONFIGS["tiny-v4-engram"]
NEW = (4, 2, 6)
"""Tokens decoded of each sequence."""


def placed(dtype: str, placement: Placement) -> Transformer:
    transformer = drawn(CONFIG, dtype)
    for module in transformer.modules():
        if isinstance(module, EngramTable):
            module.placement = placement
    return transformer


def inference(transformer: Transformer, strict: bool) -> Iterator[Tensor]:
    """Logits, step by step; `strict`: a step of decoding waits for nothing."""
    prompts = dict(enumerate(script().prompts))
    cache = transformer.cache(len(prompts), max(map(len, prompts.values())) + max(NEW), chunk=50)
    last: dict[int, Tensor] = {}
    for _, ended in transformer.prefill(cache, prompts):
        last |= ended
        yield from ended.values()
    for step in range(max(NEW)):
        going = {s: [int(last[s].cpu().argmax())] for s, new in enumerate(NEW) if step < new}
        batch = cache.append(going)
        with device.under(host_copy="error" if strict else "allow"):
            rows = transformer.step(batch, cache)
        last = dict(zip(going, rows, strict=True))
        yield rows


def training(transformer: Transformer) -> Iterator[Tensor]:
    """The loss of three steps, and the parameters after them."""
    transformer.train()
    steps = optimizer(transformer, 1e-2)
    for group in steps.param_groups:
        group["foreach"] = False  # what the CPU does; accelerators' grouped form rounds bfloat16 at other places
    ids = torch.randint(0, CONFIG.vocab_size, (2, 33), generator=torch.Generator().manual_seed(5))
    for _ in range(3):
        value = loss(transformer, ids.to(transformer.device))
        value.backward()  # type: ignore[no-untyped-call]
        steps.step()
        steps.zero_grad()
        balance(transformer)
        yield value.detach()
    yield from transformer.state_dict().values()


def compared(on_cpu: Iterator[Tensor], on_device: Iterator[Tensor]) -> dict[str, Any]:
    """How many tensors there are, and the largest difference between the two, relative to the values' range."""
    count, worst = 0, 0.0
    for a, b in zip(on_cpu, on_device, strict=True):
        assert b.device.type == "sim" and a.shape == b.shape and a.dtype == b.dtype
        there = b.cpu()
        assert a.isfinite().all() and there.isfinite().all()
        worst = max(worst, float((a - there).abs().max() / a.abs().max().clamp(min=1e-30)))
        count += 1
    found = device.findings()
    device.forget()
    return {"count": count, "worst": worst, "found": [" ".join(f) for f in found]}


def main(dtype: str = "float32") -> None:
    backend.start("sim")
    told = {}
    with torch.inference_mode():
        for placement in ("device", "host"):
            model = placed(dtype, placement)  # type: ignore[arg-type]
            pair = inference(model, False), inference(copy.deepcopy(model).to("sim"), placement == "device")
            told[placement] = compared(*pair)
    model = placed(dtype, "device")
    told["training"] = compared(training(model), training(copy.deepcopy(model).to("sim")))
    torch.sim.synchronize()
    print(json.dumps(told | {"late": [" ".join(f) for f in device.findings()]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
