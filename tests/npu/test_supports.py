"""Kernels on the vendor's operators refuse in `supports`, with the reason, what the vendor would; no device, no torch_npu."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from npu.calls import VERSIONS
from torch import Tensor

from deepport.backend import accepted
from deepport.kernel import Kernel, Support
from deepport.op import operators
from deepport.ops.attention import attention_arguments, index_arguments
from deepport.ops.dense import linear_arguments, rms_norm_arguments, rotary_arguments
from deepport.ops.mhc import collapse_arguments, post_arguments
from deepport.ops.moe import (
    combine_arguments,
    dispatch_arguments,
    experts_arguments,
    grouped_arguments,
    route_arguments,
    swiglu_arguments,
)
from deepport_npu.capability import table
from deepport_npu.kernels import kernels_for

BF16 = torch.bfloat16
_INDEX: dict[str, Any] = {"lengths": (5, 1), "first": (300, 5), "k": 8, "tied": False, "dtype": BF16}
_ATTENTION: dict[str, Any] = {"lengths": (5, 1), "first": (30, 5), "scope": "selected", "sink": True, "dtype": BF16}
_EXPERTS: dict[str, Any] = {"tokens": 5, "k": 2, "experts": 4, "ids": "dropped", "dtype": BF16, "format": "plain"}
_STREAMS: dict[str, Any] = {"tokens": 3, "n": 4, "width": 128, "dtype": BF16}
_GROUPED: dict[str, Any] = {"counts": (3, 2), "kn": (32, 24), "dtype": BF16, "format": "plain"}

BASES: dict[tuple[str, str], tuple[Callable[..., dict[str, Any]], dict[str, Any]]] = {
    ("rms_norm", "npu_rms_norm"): (rms_norm_arguments, {"shape": (3, 8), "weighted": True, "dtype": BF16}),
    ("rotary", "npu_rotary_mul"): (rotary_arguments, {"shape": (5, 3, 24), "pairs": 4, "inverse": True, "dtype": BF16}),
    ("swiglu", "npu_clipped_swiglu"): (swiglu_arguments, {"shape": (5, 8), "limit": 1.0, "dtype": BF16}),
    ("swiglu", "npu_swiglu"): (swiglu_arguments, {"shape": (5, 8), "limit": None, "dtype": BF16}),
    ("linear", "npu_weight_quant_batchmatmul"): (
        linear_arguments,
        {"tkn": (5, 64, 32), "dtype": BF16, "format": "int8:row"},
    ),
    ("linear", "matmul"): (linear_arguments, {"tkn": (5, 64, 32), "dtype": BF16, "format": "plain"}),
    ("route", "hashed"): (
        route_arguments,
        {"tokens": 5, "experts": 8, "k": 2, "scoring": "sqrtsoftplus", "mode": "hash", "dtype": torch.float32},
    ),
    ("moe_dispatch", "npu_moe_init_routing"): (
        dispatch_arguments,
        {"tokens": 5, "k": 2, "experts": 4, "dropped": True, "dtype": BF16},
    ),
    ("moe_combine", "npu_moe_token_unpermute"): (
        combine_arguments,
        {"tokens": 5, "k": 2, "dropped": True, "dtype": BF16},
    ),
    ("grouped_linear", "npu_grouped_matmul"): (grouped_arguments, _GROUPED),
    ("moe_experts", "composed"): (experts_arguments, _EXPERTS),
    ("index_topk", "npu_lightning_indexer"): (index_arguments, {**_INDEX, "heads": 64, "size": 128, "page": 16}),
    ("sparse_attention", "npu_sparse_flash_attention"): (attention_arguments, {**_ATTENTION, "heads": 4, "size": 512}),
    ("mhc_pre", "npu_mhc_pre"): (collapse_arguments, {**_STREAMS, "outputs": "pre"}),
    ("mhc_post", "npu_mhc_post"): (post_arguments, _STREAMS),
}
"""A call that each kernel takes on A2, or on A5 where A2 has no such operator: what draws its arguments, and from what."""

_CUSTOM = [name for name, chips in table().items() if next(iter(chips.values())).schema]
_WITH_ONLY_A5 = ("mhc_pre", "mhc_post")


@cache
def _kernels(family: str) -> dict[tuple[str, str], Kernel]:
    """Those that need torch_npu only; vllm-ascend's are asked in `test_custom.py`, and Triton's in `test_triton.py`."""
    found = accepted("npu", kernels_for(family, VERSIONS))
    return {(name, k.name): k for name, kernels in found.items() for k in kernels if k.name not in (*_CUSTOM, "triton")}


def _home(operator: str) -> str:
    return "A5" if operator in _WITH_ONLY_A5 else "A2"


def _asked(key: tuple[str, str], family: str, parameters: dict[str, Any], **changed: Any) -> Support:
    builder, base = BASES[key]
    arguments = builder(torch.Generator().manual_seed(0), **base | parameters) | changed
    operator = operators[key[0]]
    values = tuple(arguments.get(n, operator.defaults.get(n)) for n in operator.parameters)
    return _kernels(family)[key].supports(operator.signature(values))


def test_every_kernel_but_the_grouped_product_of_the_output_is_asked_here() -> None:
    assert set(BASES) == set(_kernels("A2")) - {("block_linear", "matmul")}


@pytest.mark.parametrize("key", BASES, ids="/".join)
def test_an_ordinary_call_is_taken(key: tuple[str, str]) -> None:
    answer = _asked(key, _home(key[0]), {})
    assert answer, answer.reason


def _case(operator: str, kernel: str, code: str, said: str, family: str = "", **parameters: Any) -> Any:
    where = family or _home(operator)
    name = ",".join(f"{n}={v}" for n, v in parameters.items()) or where
    return pytest.param((operator, kernel), where, parameters, code, said, id=f"{kernel}-{where}-{name}")


@pytest.mark.parametrize(
    ("key", "family", "parameters", "code", "said"),
    [
        _case("rms_norm", "npu_rms_norm", "dtype", "input is float64", dtype=torch.float64),
        _case("rms_norm", "npu_rms_norm", "device", "documented for A2, A3, A5, not for A1", family="A1"),
        _case("rotary", "npu_rotary_mul", "shape", "input's N is 1000; A2 takes at most 999", shape=(2, 1000, 8)),
        _case("rotary", "npu_rotary_mul", "shape", "input's D is 896; A2 takes a multiple of 2", shape=(2, 1, 896), pairs=448),
        _case("rotary", "npu_rotary_mul", "shape", "input is empty", shape=(0, 2, 8)),
        _case("rotary", "npu_rotary_mul", "dtype", "x is torch.float64", dtype=torch.float64),
        _case("swiglu", "npu_clipped_swiglu", "attribute", "always clamps", limit=None),
        _case("swiglu", "npu_clipped_swiglu", "device", "documented for A2, A3, not for A5", family="A5"),
        _case("swiglu", "npu_swiglu", "attribute", "npu_swiglu does not clamp", limit=1.0),
        _case("swiglu", "npu_swiglu", "device", "documented for A2, not for A3", family="A3"),
        _case("swiglu", "npu_swiglu", "shape", "input is empty", shape=(0, 8)),
        _case("linear", "npu_weight_quant_batchmatmul", "format", "not mxfp4", format="mxfp4"),
        _case("linear", "npu_weight_quant_batchmatmul", "dtype", "x is float32", dtype=torch.float32),
        _case("linear", "npu_weight_quant_batchmatmul", "dtype", "float16's range", dtype=torch.float16),
        _case("linear", "npu_weight_quant_batchmatmul", "shape", "K is 65536", tkn=(1, 65536, 2)),
        _case("linear", "matmul", "format", "int8:row weights are not multiplied", format="int8:row"),
        _case("linear", "matmul", "dtype", "only bfloat16 and float16 gain", dtype=torch.float32),
        _case("linear", "matmul", "shape", "is empty", tkn=(0, 8, 4)),
        _case("linear", "matmul", "attribute", "wide ones are asked for", wide=True),
        _case("linear", "npu_weight_quant_batchmatmul", "attribute", "wide ones are asked for", wide=True),
        _case("route", "hashed", "attribute", "has no sqrtsoftplus", mode="learned"),
        _case("route", "hashed", "attribute", "softmax scores a logit by all others", scoring="softmax"),
        _case("moe_dispatch", "npu_moe_init_routing", "shape", "x is empty", tokens=0),
        _case("moe_dispatch", "npu_moe_init_routing", "attribute", "expert_num is 10241", experts=10240),
        _case("moe_combine", "npu_moe_token_unpermute", "shape", "k is 513", k=513, experts=513, tokens=1),
        _case("moe_combine", "npu_moe_token_unpermute", "dtype", "A5 takes float32", family="A5"),
        _case("grouped_linear", "npu_grouped_matmul", "format", "would round x as well", format="mxfp4", kn=(128, 128)),
        _case("grouped_linear", "npu_grouped_matmul", "shape", "weight's E is 1025", counts=(0,) * 1025, kn=(2, 2)),
        _case("grouped_linear", "npu_grouped_matmul", "shape", "x's K is 65536", counts=(1,), kn=(65536, 1)),
        _case("moe_experts", "composed", "shape", "x is empty", tokens=0),
        _case("moe_experts", "composed", "format", "would round x as well", format="int8:row"),
        _case("index_topk", "npu_lightning_indexer", "shape", "query's D is 64; A2 takes 128", size=64),
        _case("index_topk", "npu_lightning_indexer", "shape", "query's N is 65; A2 takes at most 64", heads=65),
        _case("index_topk", "npu_lightning_indexer", "shape", "query's N is 12; A5 takes 8, 16, 24, 32, 64", "A5", heads=12),
        _case("index_topk", "npu_lightning_indexer", "shape", "key's block is 24", page=24),
        _case("index_topk", "npu_lightning_indexer", "shape", "key's block is 1040", page=1040),
        _case("index_topk", "npu_lightning_indexer", "dtype", "query is float32", dtype=torch.float32),
        _case("index_topk", "npu_lightning_indexer", "attribute", "sparse_count is 8194", k=4097),
        _case("sparse_attention", "npu_sparse_flash_attention", "shape", "query's D is 576; A2 takes 512", size=576),
        _case("sparse_attention", "npu_sparse_flash_attention", "shape", "query's N is 3; A2 takes a power of two", heads=3),
        _case("sparse_attention", "npu_sparse_flash_attention", "shape", "query's N is 129; A5 takes at most", "A5", heads=129),
        _case("sparse_attention", "npu_sparse_flash_attention", "dtype", "query is float32", dtype=torch.float32),
        _case("mhc_pre", "npu_mhc_pre", "shape", "x's n is 2; A5 takes 4, 6, 8", n=2),
        _case("mhc_pre", "npu_mhc_pre", "shape", "x's D is 24", width=24),
        _case("mhc_pre", "npu_mhc_pre", "dtype", "x is float32", dtype=torch.float32),
        _case("mhc_pre", "npu_mhc_pre", "device", "documented for A5, not for A2", family="A2"),
        _case("mhc_post", "npu_mhc_post", "shape", "x's D is 64; A5 takes a multiple of 128", width=64),
        _case("mhc_post", "npu_mhc_post", "device", "documented for A5, not for A3", family="A3"),
    ],
)  # fmt: skip
def test_what_the_vendor_does_not_take_is_refused(
    key: tuple[str, str], family: str, parameters: dict[str, Any], code: str, said: str
) -> None:
    answer = _asked(key, family, parameters)
    assert not answer
    assert (answer.code, said in answer.reason) == (code, True), answer.reason


@pytest.mark.parametrize(
    ("key", "family", "parameters"),
    [
        (("rotary", "npu_rotary_mul"), "A2", {"shape": (2, 999, 8)}),
        (("rotary", "npu_rotary_mul"), "A2", {"shape": (2, 1, 894), "pairs": 447}),
        (("rotary", "npu_rotary_mul"), "A5", {"shape": (2, 1000, 8)}),
        (("moe_dispatch", "npu_moe_init_routing"), "A2", {"experts": 10239}),
        (("moe_combine", "npu_moe_token_unpermute"), "A2", {"k": 512, "experts": 512, "tokens": 1}),
        (("moe_combine", "npu_moe_token_unpermute"), "A5", {"dtype": torch.float32}),
        (("grouped_linear", "npu_grouped_matmul"), "A2", {"counts": (0,) * 1024, "kn": (2, 2)}),
        (("index_topk", "npu_lightning_indexer"), "A2", {"heads": 12}),
        (("index_topk", "npu_lightning_indexer"), "A5", {"heads": 16}),
        (("index_topk", "npu_lightning_indexer"), "A2", {"page": 1024}),
        (("index_topk", "npu_lightning_indexer"), "A2", {"k": 1024}),
        (("index_topk", "npu_lightning_indexer"), "A2", {"k": 4096}),
        (("sparse_attention", "npu_sparse_flash_attention"), "A2", {"heads": 128}),
        (("sparse_attention", "npu_sparse_flash_attention"), "A5", {"heads": 3}),
        (("sparse_attention", "npu_sparse_flash_attention"), "A3", {"scope": "window"}),
        (("sparse_attention", "npu_sparse_flash_attention"), "A3", {"scope": "all", "sink": False}),
        (("mhc_pre", "npu_mhc_pre"), "A5", {"n": 6, "width": 16}),
        (("mhc_post", "npu_mhc_post"), "A5", {"n": 8}),
    ],
)
def test_what_lies_just_inside_is_taken(key: tuple[str, str], family: str, parameters: dict[str, Any]) -> None:
    answer = _asked(key, family, parameters)
    assert answer, answer.reason


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (("index_topk", "npu_lightning_indexer"), "pages"),
        (("sparse_attention", "npu_sparse_flash_attention"), "window_pages"),
        (("sparse_attention", "npu_sparse_flash_attention"), "compressed_pages"),
    ],
)
def test_a_cache_with_gaps_is_not_copied(key: tuple[str, str], name: str) -> None:
    builder, base = BASES[key]
    pages: Tensor = builder(torch.Generator().manual_seed(0), **base)[name]
    spread = torch.cat((pages, pages), -1)[..., : pages.shape[-1]]
    answer = _asked(key, "A2", {}, **{name: spread})
    assert (answer.code, "a cache is not copied" in answer.reason) == ("layout", True)


def test_caches_of_two_dtypes_are_refused() -> None:
    key = ("sparse_attention", "npu_sparse_flash_attention")
    builder, base = BASES[key]
    pages: Tensor = builder(torch.Generator().manual_seed(0), **base)["compressed_pages"]
    assert _asked(key, "A2", {}, compressed_pages=pages.half()).code == "dtype"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (("index_topk", "npu_lightning_indexer"), "table"),
        (("sparse_attention", "npu_sparse_flash_attention"), "window_table"),
    ],
)
def test_a_batch_of_no_sequences_is_refused(key: tuple[str, str], name: str) -> None:
    answer = _asked(key, "A2", {}, **{name: torch.empty(0, 3, dtype=torch.int32)})
    assert (answer.code, answer.reason) == ("shape", "there are no sequences")


def test_kernels_are_listed_without_torch_npu() -> None:
    code = "import sys; from deepport_npu.kernels import kernels_for; kernels_for('A2', {}); print('torch_npu' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
