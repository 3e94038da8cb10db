"""A whole model on the simulated NPU: as right as references are (G6), and computed by the vendor's fused operators."""

from __future__ import annotations

import json
from typing import Any

import pytest
from npu.simulated import run

FUSED = {
    "rms_norm npu/npu_rms_norm",
    "rotary npu/npu_rotary_mul",
    "index_topk npu/npu_lightning_indexer",
    "sparse_attention npu/npu_sparse_flash_attention",
    "moe_dispatch npu/npu_moe_init_routing",
    "grouped_linear npu/npu_grouped_matmul",
    "route npu/hashed",
}
"""On every chip, in bfloat16."""

ELSEWHERE = {
    "A2": {"swiglu npu/npu_clipped_swiglu", "moe_combine npu/npu_moe_token_unpermute", "mhc_post reference"},
    "A5": {"swiglu reference", "moe_combine reference", "mhc_pre npu/npu_mhc_pre", "mhc_post npu/npu_mhc_post"},
}


def _played(dtype: str, part: str, soc: str, lazy: bool = False) -> dict[str, Any]:
    printed = run("model", dtype, part, soc=soc, lazy=lazy)
    found: dict[str, Any] = json.loads(next(line for line in printed.splitlines() if line.startswith("{")))
    assert found["gates"]
    assert not found["failed"], found["failed"]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("soc", "lazy"), [("A2", False), ("A2", True), ("A5", False), ("A5", True)])
def test_text_is_made_by_fused_operators_and_is_right(soc: str, lazy: bool) -> None:
    served = set(_played("bfloat16", "logits", soc, lazy)["served"])
    missing = (FUSED | ELSEWHERE[soc]) - served
    assert not missing, served


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_training_step_is_right(dtype: str) -> None:
    served = _played(dtype, "gradients", "A2")["served"]
    assert any("npu/" in name for name in served)
