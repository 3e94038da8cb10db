"""A call that every vendor operator of the capability table takes, on every chip that it is documented for: where tests begin."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch

from deepport.kernel import TensorSpec
from deepport_npu.capability import Entry, TensorRule
from deepport_npu.kernels.chip import laid

VERSIONS = {"torch_npu": "2.13.0", "cann": "9.2.0"}

SIZES: dict[str, dict[str, int]] = {
    "npu_rms_norm": {"T": 3, "N": 2, "D": 8},
    "npu_rotary_mul": {"S": 5, "N": 3, "D": 64},
    "npu_interleave_rope": {"B": 2, "N": 3, "S": 4, "D": 64},
    "npu_swiglu": {"T": 3, "N": 2, "C": 8},
    "npu_clipped_swiglu": {"T": 3, "N": 2, "C": 8},
    "npu_lightning_indexer": {"B": 2, "S": 1, "N": 64, "D": 128, "blocks": 4, "block": 64, "most": 2},
    "npu_sparse_flash_attention": {"B": 1, "S": 5, "N": 64, "D": 512, "R": 64, "keys": 9, "K": 7},
    "npu_moe_gating_top_k": {"T": 3, "E": 256},
    "npu_moe_init_routing_v2": {"T": 3, "C": 8, "k": 2},
    "npu_moe_token_unpermute": {"T": 3, "C": 8, "k": 2},
    "npu_moe_finalize_routing": {"T": 3, "C": 8, "k": 2},
    "npu_grouped_matmul": {"M": 6, "K": 8, "N": 4, "E": 3},
    "npu_mhc_pre": {"T": 3, "n": 4, "D": 128, "three": 3},
    "npu_mhc_sinkhorn": {"T": 3, "n": 4},
    "npu_mhc_post": {"T": 3, "n": 4, "D": 128},
    "npu_dynamic_quant": {"T": 3, "K": 8, "E": 2},
    "npu_quant_matmul": {"M": 3, "K": 8, "N": 4},
    "npu_weight_quant_batchmatmul": {"M": 3, "K": 8, "N": 4},
    "npu_dynamic_mx_quant": {"T": 3, "K": 64, "E": 2},
    "npu_hc_post": {"T": 3, "n": 4, "D": 4096},
    "inplace_partial_rotary_mul": {"S": 5, "N": 3, "D": 512, "R": 64},
}

ATTRIBUTES: dict[str, dict[str, Any]] = {
    "npu_lightning_indexer": {"sparse_count": 512},
    "npu_moe_gating_top_k": {"k": 6},
    "npu_moe_init_routing_v2": {"expert_num": 8},
    "npu_mhc_sinkhorn": {"num_iters": 20},
    "npu_dynamic_mx_quant": {"block_size": 32},
}
"""Those that are numbers in a range; the others take the first value that the table lists, or any."""


def call(entry: Entry, **sizes: int) -> dict[str, Any]:
    """The arguments of a call, with some sizes other than `SIZES`."""
    known = SIZES[entry.operator] | sizes
    tensors = {n: tensor(rule, known) for n, rule in entry.tensors.items()}
    listed = {n: b.one_of[0] for n, b in entry.attributes.items() if b.one_of}
    return tensors | listed | ATTRIBUTES.get(entry.operator, {})


def tensor(rule: TensorRule, sizes: Mapping[str, int]) -> TensorSpec:
    """What a rule takes: its last dtype, which every group of tensors of one dtype has, and its first shape."""
    return laid(getattr(torch, rule.dtypes[-1]), *(_size(term, sizes) for term in rule.shapes[0]))


def _size(term: str, sizes: Mapping[str, int]) -> int:
    return sum(prod(int(f) if f.isdecimal() else sizes[f] for f in t.split("*")) for t in term.split("+"))
