"""What kernels need for themselves and keep (`csrc/cpu/scratch.h`): the buffers that grow with a call. Others hold a few rows."""

from __future__ import annotations

from math import prod

import torch

from deepport import formats
from deepport.kernel import Signature
from deepport_cpu import _levels

_PAIRS = ("avx512_bf16", "amx", "neon_bf16")
"""Levels that multiply bfloat16 as it is; the others multiply floats (`Factor` in `product.h`)."""

_TOKENS, _COLUMNS, _ROW_BYTES = 512, 256, 1024
"""A block of weights has so many columns, and rows for so many bytes of each, and so many tokens meet it at a time (`gemm.h`)."""


def of_linear(signature: Signature) -> dict[str, int]:
    """All tokens in panels, and each thread's block of weights and of sums."""
    x = signature["x"]
    tokens, groups = (prod(x.shape[:-1]), 1) if signature.operator == "linear" else x.shape[:2]
    factor, threads = _factor(signature, "w"), torch.get_num_threads()
    rows = min(signature["w"].shape[-2], _ROW_BYTES // factor)
    return {
        "panels": groups * _whole(tokens, 16) * _whole(x.shape[-1], 32) * factor,
        "expanded": threads * rows * _COLUMNS * factor,
        "sums": threads * rows * _whole(min(tokens, _TOKENS), 16) * 4,
    }


def of_experts(signature: Signature) -> dict[str, int]:
    """What the hidden channels hold of every token's copies; each thread's tokens of an expert, which may be all, and sums."""
    (tokens, width), copies, experts = signature["x"].shape, prod(signature["ids"].shape), signature["w13"].shape[0]
    hidden, factor, threads = signature["w13"].shape[1] // 2, _factor(signature, "w13"), torch.get_num_threads()
    together = _whole(max(262144 // (tokens + 1), width // threads // 4), 32)
    return {
        "hidden": (copies + 15 * min(experts, copies)) * _whole(hidden, 32) * factor,
        "gathered": threads * _whole(tokens, 16) * _whole(width, 32) * factor,
        "rows": threads * 64 * (_whole(max(width, hidden), 32) * factor + 256 * 4),
        "totals": threads * tokens * together * 4,
    }


def _factor(signature: Signature, weights: str) -> int:
    """Bytes of a number as it is multiplied."""
    narrow = signature["x"].dtype == torch.bfloat16 and signature[weights].dtype != torch.float32
    scaled = signature["format"] != formats.PLAIN and not signature["format"].startswith("mxfp4")
    return 2 if narrow and not scaled and _levels.chosen() in _PAIRS else 4


def _whole(count: int, of: int) -> int:
    return -(-count // of) * of
