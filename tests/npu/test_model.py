"""Whole models through torch_npu on every simulated chip: as right as references are (G6), and by the vendor's fused operators.

Work happens at once or as late as a device may do it, and with torch_npu's own queue of calls off and on; never on the CPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from npu.models import PARTS
from npu.simulated import PROGRAMS, run

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

_ATLAS = {"swiglu npu/npu_clipped_swiglu", "moe_combine npu/npu_moe_token_unpermute", "mhc_post reference"}
ELSEWHERE = {
    "A2": _ATLAS,
    "A3": _ATLAS,
    "A5": {"swiglu reference", "moe_combine reference", "mhc_pre npu/npu_mhc_pre", "mhc_post npu/npu_mhc_post"},
}


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Oracles and yardsticks, of a process that no kernel has touched."""
    file = tmp_path_factory.mktemp("models") / "truth.pt"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, PROGRAMS / "truth.py", file], env=environment, check=True, timeout=300)
    return file


@pytest.mark.slow
@pytest.mark.parametrize(("soc", "when", "queue"), list(product(ELSEWHERE, ("", "--lazy"), (0, 1))))
def test_models_compute_what_they_should(truth: Path, soc: str, when: str, queue: int) -> None:
    printed = run("model", str(truth), soc=soc, options=f"{when} --task-queue {queue}")
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    parts = found["parts"]
    assert parts.keys() == {str(part) for part in PARTS}
    failed = {name: part["failed"] for name, part in parts.items() if part["failed"] or not part["gates"]}
    assert not failed
    assert {n for n, part in parts.items() if "greedy" in part["gates"]} >= {
        "v4 float32 decode",
        "v4-engram float32 decode",
    }
    for name in ("forward", "ragged", "decode", "training"):
        served = parts[f"v4-engram bfloat16 {name}"]["served"].keys()
        assert served >= FUSED | ELSEWHERE[soc], served
    assert found["fallbacks"] == 0
