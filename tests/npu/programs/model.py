"""Tiny models on the simulated NPU: `model.py FILE` prints what each part's gates say, who served, and copies of fallbacks.

FILE is `truth.py`'s.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import torch_npu  # noqa: F401  (registers the device)
from npu.models import PARTS, Part

from deepport.conformance import model
from deepport.conformance.model import ModelTruth


def told(part: Part, found: ModelTruth) -> dict[str, Any]:
    performance = model.perform_of(part.drawn().to("npu:0"), part.script, found.decisions, "npu")
    gates = part.judge(performance, found)
    return {
        "gates": [g.metric for g in gates],
        "failed": [f"{g.metric} {g.value} {g.bound} {g.detail}" for g in gates if g.status != "pass"],
        "served": {f"{r.operator} {r.implementation}": r.calls for r in performance.served},
    }


def main(truths: str) -> None:
    found = torch.load(truths, weights_only=False)  # our own file
    parts = {str(part): told(part, found[str(part)]) for part in PARTS}
    from cann.dispatch import BY_FALLBACK
    from cann.started import dispatcher

    print(json.dumps({"parts": parts, "copies": dispatcher.copies, "fallbacks": dispatcher.copies[BY_FALLBACK]}))


if __name__ == "__main__":
    main(sys.argv[1])
