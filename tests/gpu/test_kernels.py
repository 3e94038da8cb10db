"""Every kernel in every float type it takes, at widths of the published models, before the conformance suite's gates.

Tokens are few and ragged: padding, sequences without tokens, tokens that see nothing, ids of -1, and tails of every block.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from deepport.op import operators
from deepport.spec import Case, case
from deepport_triton.kernels import KERNELS
from gpu.judged import failures

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
OF_ONE_TYPE = ("engram_hash", "rotary_angles")
"""Operators whose numbers have no other."""

_FP8, _FP4, _ROW = "fp8_e4m3:128x128", "mxfp4", "fp8_e4m3:1x32"
_ATTENTION = {"heads": 24, "size": 512, "page": 64, "window": 128, "sink": True, "k": 512, "ring": True}
_COMPRESS = {"lengths": (9, 0, 1), "first": (6, 5, 3), "ratio": 4, "overlap": True, "width": 512}
_EXPERTS = {"tokens": 3, "k": 6, "experts": 8, "hidden": 48, "limit": 10.0}
_STREAMS = {"tokens": 2, "n": 4}

SHAPES: dict[str, tuple[dict[str, Any], ...]] = {
    "block_linear": ({"tgkn": (2, 2, 4096, 40), "format": "plain"}, {"tgkn": (2, 2, 512, 140), "format": _FP8}),
    "compress_kv_": (_COMPRESS, {**_COMPRESS, "lengths": (131,), "first": (126,), "ratio": 128, "overlap": False, "width": 80}),
    "dequantize": tuple({"shape": (40, 160), "format": f} for f in (_FP8, _ROW, _FP4, "fp8_e4m3fnuz:128x128", "int8:row")),
    "engram_conv_": ({"lengths": (3, 0, 1), "kernel": 4, "dilation": 2, "n": 2, "width": 4096},),
    "engram_gate": ({**_STREAMS, "width": 4096, "zero": "half"}, {**_STREAMS, "width": 7168, "zero": "copysign"}),
    "engram_gather": tuple({"rows": 500, "width": 256, "shape": (3, 24), "format": f} for f in ("plain", _ROW, _FP4)),
    "engram_hash": (
        {
            "lengths": (5, 0, 1), "layers": 2, "orders": 3, "heads": 8, "boundary": None, "vocabulary": 99092,
            "largest": 16_000_000,
        },
    ),
    "grouped_linear": (
        {"counts": (1, 0, 18), "kn": (512, 40), "format": "plain"},
        {"counts": (1, 0, 2), "kn": (512, 40), "format": _FP4},
    ),
    "index_topk": (
        {"lengths": (2, 0, 1), "first": (2100, 7, 5), "k": 512, "tied": False, "heads": 24, "size": 128, "page": 64},
        {"lengths": (9,), "first": (300,), "k": 8, "tied": True, "heads": 3, "size": 24, "page": 8},
    ),
    "linear": (
        {"tkn": (3, 4096, 33), "format": "plain", "wide": True},
        {"tkn": (19, 7168, 40), "format": _FP8},
        {"tkn": (3, 256, 40), "format": _FP4},
        {"tkn": (3, 256, 40), "format": "int8:row"},
    ),
    "mhc_head": ({**_STREAMS, "width": 4096, "outputs": "head"},),
    "mhc_post": ({**_STREAMS, "width": 7168},),
    "mhc_pre": ({**_STREAMS, "width": 4096, "outputs": "pre"}, {**_STREAMS, "n": 3, "width": 33, "outputs": "pre"}),
    "moe_combine": ({"tokens": 3, "k": 6, "dropped": True, "width": 7168, "experts": 256},),
    "moe_dispatch": ({"tokens": 5, "k": 6, "experts": 33, "dropped": True, "width": 4096},),
    "moe_experts": (
        {**_EXPERTS, "ids": "dropped", "format": "plain", "width": 512},
        {**_EXPERTS, "ids": "duplicate", "format": _FP4, "width": 96},
    ),
    "quantize": tuple({"shape": (40, 160), "format": f, "power_of_two": True} for f in (_FP8, _ROW, _FP4, "int8:channel")),
    "rms_norm": ({"shape": (3, 7168), "weighted": True}, {"shape": (2, 9, 512), "weighted": False}),
    "rotary": ({"shape": (3, 9, 512), "pairs": 32, "inverse": True}, {"shape": (3, 128), "pairs": 32, "inverse": False}),
    "rotary_angles": (
        {"tokens": 9, "pairs": 32, "ratio": 1, "depth": 1 << 20},
        {"tokens": 300, "pairs": 33, "ratio": 128, "depth": 1 << 13},
    ),
    "route": tuple(
        {"tokens": 3, "experts": e, "k": 6, "scoring": s, "mode": m}
        for e, s, m in ((256, "sqrtsoftplus", "learned"), (384, "sqrtsoftplus", "hash"), (33, "softmax", "tied"))
    ),
    "sparse_attention": (
        {**_ATTENTION, "lengths": (1, 0, 1), "first": (2300, 5, 3), "scope": "selected", "ratio": 4},
        {**_ATTENTION, "lengths": (1,), "first": (12809,), "scope": "all", "ratio": 128},
        {**_ATTENTION, "lengths": (17, 2), "first": (0, 200), "scope": "selected", "ratio": 4, "heads": 3, "size": 24},
        {**_ATTENTION, "lengths": (2,), "first": (126,), "scope": "window", "sink": False},
    ),
    "swiglu": ({"shape": (3, 2048), "limit": 10.0}, {"shape": (5, 33), "limit": None}),
    "write_pages_": ({"lengths": (3, 0, 1), "first": (62, 9, 127), "page": 64, "padding": 2, "width": 512},),
}  # fmt: skip
"""By operator, what its builder draws from, but for the float type. A functional twin has those of the one in place."""


def cases(operator: str) -> list[Case]:
    builder = next(iter(operators[operator].cases)).builder
    shapes = SHAPES.get(operator) or SHAPES[f"{operator}_"]
    if operator in OF_ONE_TYPE:
        return [case(builder, **given) for given in shapes]
    return [case(builder, **given, dtype=dtype) for dtype in FLOATS for given in shapes]


@pytest.mark.parametrize("operator", [k.operator for k in KERNELS])
def test_a_kernel_computes_what_its_operator_means(operator: str) -> None:
    kernel = next(k for k in KERNELS if k.operator == operator)
    wrong = [f"{c.label}: {told}" for c in cases(operator) for told in failures(kernel, c)]
    assert not wrong, "\n".join(wrong)
