"""Kernels on the simulated NPU: each passes its operator's gates wherever it says yes, on every generation of chip."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from npu.simulated import run

from deepport_npu.capability import table
from deepport_npu.kernels import kernels_for

ABSENT = {
    "A2": {"npu_mhc_pre", "npu_mhc_post"},
    "A3": {"npu_mhc_pre", "npu_mhc_post", "npu_swiglu"},
    "A5": {"npu_clipped_swiglu", "npu_swiglu", "npu_weight_quant_batchmatmul"},
}
"""Vendor operators that no page names for a chip."""

ELSEWHERE = {"triton"} | {name for name, chips in table().items() if next(iter(chips.values())).schema}
"""What the simulator cannot run: Triton (`test_triton.py`), and vllm-ascend's operators (`test_custom.py`)."""


@pytest.mark.slow
@pytest.mark.parametrize("soc", ABSENT)
def test_every_kernel_computes_what_its_operator_means(soc: str) -> None:
    lines = [json.loads(line) for line in run("kernels", soc, soc=soc).splitlines() if line.startswith("{")]
    wrong = [line for line in lines if line["failed"]]
    assert not wrong, "\n".join(f"{line['kernel']} {line['case']}: {'; '.join(line['failed'])}" for line in wrong)
    ran = Counter(line["kernel"] for line in lines if line["failed"] is not None)
    listed = {f"{k.operator}/{k.name}": k.name for k in kernels_for(soc, {})}
    assert {k for k in listed if not ran[k]} == {k for k, name in listed.items() if name in ABSENT[soc] | ELSEWHERE}
