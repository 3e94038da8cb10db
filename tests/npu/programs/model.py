"""A tiny V4 that the vendor's operators take, on the simulated NPU: `model.py DTYPE PART` prints gates and who served.

PART: logits (chunked prefill of a ragged batch, then decoding) or gradients (a training step).
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import torch
import torch_npu  # noqa: F401  (registers the device)

from deepport.conformance import model
from deepport.conformance.model import ModelCase

TINY = replace(
    next(iter(model.CONFIGS.values())),
    num_attention_heads=4,
    head_dim=512,
    qk_rope_head_dim=64,
    index_n_heads=8,
    index_head_dim=128,
    hc_mult=4,
    hidden_size=128,
)


def main(dtype: str, part: str) -> None:
    model.CONFIGS["fused"] = TINY
    case = ModelCase("fused", dtype, part, "bring-up")  # type: ignore[arg-type]
    found = model.truth(case)
    performance = model.perform(case, found.decisions, "npu", torch.device("npu:0"))
    judged = model.judge(case, performance, found)
    failed = [f"{g.metric} {g.value} {g.bound} {g.detail}" for g in judged if g.status == "fail"]
    served = {f"{r.operator} {r.implementation}": r.calls for r in performance.served}
    print(json.dumps({"failed": failed, "gates": len(judged), "served": served}))


if __name__ == "__main__":
    main(*sys.argv[1:])
