"""Feature dimensions of the published models: V4-Flash, V4-Pro, and V4-Flash with the Engram of V4.1-Flash.

Tokens are few: they only repeat rows. So do the rows of a weight, groups, experts, a table's rows and a vocabulary, which are
cut to what a core computes in a second, and the note says so. Sums, which errors grow with, keep their length, but for the
channels inside an expert.
`tests/conformance/test_captured.py` traces the models and compares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch

from deepport.formats import PLAIN
from deepport.op import Operator
from deepport.ops.attention import attention_arguments, index_arguments
from deepport.ops.cache import write_arguments
from deepport.ops.compress import compress_arguments
from deepport.ops.dense import (
    block_linear_arguments,
    linear_arguments,
    rms_norm_arguments,
    rotary_angles_arguments,
    rotary_arguments,
)
from deepport.ops.engram import conv_arguments, gate_arguments, gather_arguments, hash_arguments
from deepport.ops.mhc import collapse_arguments, post_arguments
from deepport.ops.moe import (
    combine_arguments,
    dispatch_arguments,
    experts_arguments,
    grouped_arguments,
    route_arguments,
    swiglu_arguments,
)
from deepport.ops.quantize import dequantize_arguments, quantize_arguments
from deepport.spec import Builder, Case, case
from deepport_model.cache import PAGE
from deepport_model.config import Config, EngramConfig
from deepport_model.presets import V4_1_ENGRAM, V4_FLASH, V4_PRO

ENGRAM = replace(V4_1_ENGRAM, kernel_size=EngramConfig.kernel_size)
"""V4.1-Flash's, as published; the convolution is the paper's."""

_MEMORY_ROWS = (384_006_168, 384_016_682)
"""Of its two tables."""

MODELS: dict[str, Config] = {
    "v4-flash": V4_FLASH,
    "v4-pro": V4_PRO,
    "engram": replace(V4_FLASH, engram=ENGRAM),
}
"""By the name of the grid."""

_ROWS, _GROUPS, _EXPERTS, _TABLE, _VOCABULARY = 512, 2, 8, 5000, 1000
"""What is left of rows of a weight, groups, experts, a memory's rows and a vocabulary."""

_PREFILL, _DECODE = 33, 4
_BF16, _F32 = torch.bfloat16, torch.float32
_DENSE, _EXPERT, _MEMORY = "fp8_e4m3:128x128", "mxfp4", "fp8_e4m3:1x32"
"""The checkpoints' formats."""

Cases = Iterator[Case]


def cases(operator: Operator[..., Any]) -> Cases:
    """The cases of all models in which the operator has any."""
    for grid, config in MODELS.items():
        if (family := _FAMILIES.get(operator.name)) and (operator.name in _MEMORIES) == (grid == "engram"):
            yield from (replace(c, grid=grid) for c in family(config))


def _cut(found: Case, *notes: str) -> Case:
    """A case with what was cut."""
    return replace(found, note="; ".join(n for n in notes if n))


def _of(what: str, kept: int, *true: int) -> str:
    """`512 of 32768 and 1024 rows of the weight`, "" where nothing is cut."""
    cut = [str(n) for n in true if n > kept]
    return f"{kept} of {' and '.join(cut)} {what}" if cut else ""


def matrices(c: Config) -> set[tuple[int, int]]:
    """`(inputs, outputs)` of every linear layer that is not a routed expert's."""
    width, hidden = c.hidden_size, c.moe_intermediate_size * c.n_shared_experts
    found = {(width, c.q_lora_rank), (c.q_lora_rank, c.num_attention_heads * c.head_dim), (width, c.head_dim)}
    found |= {(c.o_groups * c.o_lora_rank, width), (width, hidden), (hidden, width)}
    found |= {(width, c.n_routed_experts), (width, c.vocab_size), (width, 2 * c.head_dim)}
    found |= {
        (c.q_lora_rank, c.index_n_heads * c.index_head_dim),
        (width, c.index_n_heads),
        (width, 2 * c.index_head_dim),
    }
    return found


def _linear(c: Config) -> Cases:
    """Every length of sum, with the rows of all its weights cut to the same number; and the narrow ones as they are."""
    shapes = matrices(c)
    for k in sorted({k for k, _ in shapes}):
        note = _of("rows of the weight", _ROWS, *sorted(n for i, n in shapes if i == k))
        for tokens, dtype, format in ((_PREFILL, _BF16, PLAIN), (_DECODE, _F32, PLAIN), (2, _BF16, _DENSE)):
            yield _cut(case(linear_arguments, tkn=(tokens, k, _ROWS), dtype=dtype, format=format), note)
    for k, n in sorted(s for s in shapes if s[1] < _ROWS):
        scores = {"wide": True} if n in (c.n_routed_experts, c.index_n_heads) else {}
        yield case(linear_arguments, tkn=(_DECODE, k, n), dtype=_BF16, format=PLAIN, **scores)


def _block_linear(c: Config) -> Cases:
    k = c.num_attention_heads * c.head_dim // c.o_groups
    for tokens, dtype, format in ((_PREFILL, _BF16, PLAIN), (_DECODE, _F32, PLAIN), (1, _BF16, _DENSE)):
        shape = (tokens, _GROUPS, k, _ROWS)
        notes = (_of("groups", _GROUPS, c.o_groups), _of("rows of each weight", _ROWS, c.o_lora_rank))
        yield _cut(case(block_linear_arguments, tgkn=shape, dtype=dtype, format=format), *notes)


def _rms_norm(c: Config) -> Cases:
    shapes = [((n,), True) for n in (c.hidden_size, c.q_lora_rank, c.head_dim, c.index_head_dim)]
    for shape, weighted in (*shapes, ((c.num_attention_heads, c.head_dim), False)):
        for tokens, dtype in ((_PREFILL, _BF16), (_DECODE, _F32)):
            yield case(rms_norm_arguments, shape=(tokens, *shape), weighted=weighted, dtype=dtype)


def _rotary(c: Config) -> Cases:
    heads, size = (c.num_attention_heads, c.head_dim), (c.index_n_heads, c.index_head_dim)
    pairs = c.qk_rope_head_dim // 2
    for shape, inverse in ((heads, False), (heads, True), (size, False), (heads[1:], False), (size[1:], False)):
        for tokens, dtype in ((_PREFILL, _BF16), (_DECODE, _F32)):
            yield case(rotary_arguments, shape=(tokens, *shape), pairs=pairs, inverse=inverse, dtype=dtype)


def _rotary_angles(c: Config) -> Cases:
    pairs, depth = c.qk_rope_head_dim // 2, c.max_position_embeddings
    for tokens in (_PREFILL, _DECODE):
        for ratio in sorted({1, *c.compress_ratios} - {0}):
            yield case(rotary_angles_arguments, tokens=tokens, pairs=pairs, ratio=ratio, depth=depth // ratio)


def _write_pages(c: Config) -> Cases:
    for width in (c.head_dim, c.index_head_dim):
        for lengths, first in (((24, 9), (0, 117)), ((1, 1, 1), (63, 64, 200))):
            given = {"page": PAGE, "padding": 0, "dtype": _BF16, "width": width}
            yield case(write_arguments, lengths=lengths, first=first, **given)


def _compress(c: Config) -> Cases:
    ratios = sorted(set(c.compress_ratios) - {0})
    kinds = [(r, r == c.csa_ratio, c.head_dim) for r in ratios] + [(c.csa_ratio, True, c.index_head_dim)]
    for ratio, overlap, width in kinds:
        for lengths, first, dtype in (((150, 9), (0, 125), _BF16), ((1, 1, 1), (127, 130, 3), _F32)):
            given = {"ratio": ratio, "overlap": overlap, "dtype": dtype, "width": width}
            yield case(compress_arguments, lengths=lengths, first=first, **given)


def _index(c: Config) -> Cases:
    beyond = 4 * c.index_topk + 300  # more entries than are chosen
    for lengths, first, dtype in (((16, 5), (beyond, 40), _BF16), ((1, 1, 1), (beyond, 5, 2 * beyond), _F32)):
        given = {"k": c.index_topk, "tied": False, "dtype": dtype, "heads": c.index_n_heads, "size": c.index_head_dim}
        yield case(index_arguments, lengths=lengths, first=first, **given, page=PAGE, ratio=c.csa_ratio)


def _attention(c: Config) -> Cases:
    kinds = {0: "window", c.csa_ratio: "selected"}
    shape = {"heads": c.num_attention_heads, "size": c.head_dim, "page": PAGE, "window": c.sliding_window}
    for ratio in sorted(set(c.compress_ratios)):
        first = 100 * ratio + 9 if ratio > c.csa_ratio else 4 * c.index_topk + 300
        for lengths, begin, dtype in (((6, 3), (first, 126), _BF16), ((1, 1), (first, 3), _F32)):
            given = {"scope": kinds.get(ratio, "all"), "sink": True, "dtype": dtype, **shape}
            yield case(
                attention_arguments, lengths=lengths, first=begin, **given, k=c.index_topk, ratio=ratio, ring=True
            )


def _route(c: Config) -> Cases:
    routing = {"experts": c.n_routed_experts, "k": c.num_experts_per_tok, "scoring": c.scoring_func, "dtype": _F32}
    for tokens in (_PREFILL, _DECODE):
        for mode in ("learned", "hash"):
            found = case(
                route_arguments,
                tokens=tokens,
                mode=mode,
                **routing,
                scale=c.routed_scaling_factor,
                vocabulary=_VOCABULARY,
            )
            yield _cut(found, _of("rows of the table", _VOCABULARY, c.vocab_size) if mode == "hash" else "")


def _copies(builder: Builder) -> Callable[[Config], Cases]:
    def family(c: Config) -> Cases:
        for tokens, dtype in ((_PREFILL, _BF16), (_DECODE, _F32)):
            sizes = {"k": c.num_experts_per_tok, "experts": c.n_routed_experts, "width": c.hidden_size}
            yield case(builder, tokens=tokens, dropped=False, dtype=dtype, **sizes)

    return family


def _grouped(c: Config) -> Cases:
    width, hidden = c.hidden_size, c.moe_intermediate_size
    for k, n in ((width, 2 * hidden), (hidden, width)):
        notes = (_of("experts", 4, c.n_routed_experts), _of("rows of each weight", 256, n))
        for dtype, format in ((_F32, PLAIN), (_BF16, PLAIN), (_BF16, _EXPERT), (_BF16, _DENSE)):
            yield _cut(case(grouped_arguments, counts=(7, 0, 1, 3), kn=(k, 256), dtype=dtype, format=format), *notes)


def _experts(c: Config) -> Cases:
    experts = _of("experts", _EXPERTS, c.n_routed_experts)
    sizes = {"k": c.num_experts_per_tok, "experts": _EXPERTS, "width": c.hidden_size, "limit": c.swiglu_limit}
    for tokens, hidden, dtype, format in ((12, 128, _BF16, PLAIN), (1, 128, _F32, PLAIN), (2, 32, _BF16, _EXPERT)):
        given = {"ids": "distinct", "dtype": dtype, "format": format, "hidden": hidden}
        found = case(experts_arguments, tokens=tokens, **sizes, **given)
        yield _cut(found, experts, _of("channels inside each", hidden, c.moe_intermediate_size))


def _swiglu(c: Config) -> Cases:
    for tokens, dtype in ((_PREFILL, _BF16), (_DECODE, _F32)):
        shape = (tokens, c.moe_intermediate_size * c.n_shared_experts)
        yield case(swiglu_arguments, shape=shape, limit=c.swiglu_limit, dtype=dtype)


def _streams(builder: Builder, **given: Any) -> Callable[[Config], Cases]:
    def family(c: Config) -> Cases:
        for tokens, dtype in ((_PREFILL, _BF16), (_DECODE, _F32)):
            yield case(builder, tokens=tokens, n=c.hc_mult, width=c.hidden_size, **given, dtype=dtype)

    return family


def _formats(builder: Builder, **given: Any) -> Callable[[Config], Cases]:
    def family(c: Config) -> Cases:
        for format in (_DENSE, _EXPERT, _MEMORY):
            found = case(builder, shape=(_ROWS, c.hidden_size), format=format, **given, dtype=_BF16)
            yield _cut(found, _of("rows", _ROWS, c.vocab_size))

    return family


def _hash(c: Config) -> Cases:
    e = _engram(c)
    sizes = {"layers": len(e.layer_ids), "orders": e.max_ngram_size - 1, "heads": e.n_head_per_ngram}
    for lengths in ((24, 9), (1, 1, 1)):
        given = {"boundary": None, "vocabulary": e.compressed_vocab_size, "largest": max(e.engram_vocab_size)}
        yield case(hash_arguments, lengths=lengths, **sizes, **given)


def _gather(c: Config) -> Cases:
    e = _engram(c)
    note = _of("rows", _TABLE, *_MEMORY_ROWS)
    for tokens, dtype, format in ((_PREFILL, _BF16, _MEMORY), (_PREFILL, _BF16, PLAIN), (_DECODE, _F32, PLAIN)):
        shape = (tokens, e.heads)
        yield _cut(
            case(gather_arguments, rows=_TABLE, width=e.row_width, shape=shape, dtype=dtype, format=format), note
        )


def _gate(c: Config) -> Cases:
    for tokens, dtype in ((_PREFILL, _BF16), (_DECODE, _F32)):
        yield case(gate_arguments, tokens=tokens, n=c.hc_mult, width=c.hidden_size, zero=_engram(c).zero, dtype=dtype)


def _conv(c: Config) -> Cases:
    e = _engram(c)
    shape = {"kernel": e.kernel_size, "dilation": e.max_ngram_size, "n": c.hc_mult, "width": c.hidden_size}
    for lengths, dtype in (((24, 9), _BF16), ((1, 1, 1), _F32)):
        yield case(conv_arguments, lengths=lengths, dtype=dtype, **shape)


def _engram(c: Config) -> EngramConfig:
    if c.engram is None:
        raise ValueError("this model has no Engram")
    return c.engram


_MEMORIES: dict[str, Callable[[Config], Cases]] = {
    "engram_conv": _conv,
    "engram_conv_": _conv,
    "engram_gate": _gate,
    "engram_gather": _gather,
    "engram_hash": _hash,
}

_FAMILIES: dict[str, Callable[[Config], Cases]] = _MEMORIES | {
    "block_linear": _block_linear,
    "compress_kv": _compress,
    "compress_kv_": _compress,
    "dequantize": _formats(dequantize_arguments),
    "grouped_linear": _grouped,
    "index_topk": _index,
    "linear": _linear,
    "mhc_head": _streams(collapse_arguments, outputs="head"),
    "mhc_post": _streams(post_arguments),
    "mhc_pre": _streams(collapse_arguments, outputs="pre"),
    "moe_combine": _copies(combine_arguments),
    "moe_dispatch": _copies(dispatch_arguments),
    "moe_experts": _experts,
    "quantize": _formats(quantize_arguments, power_of_two=True),
    "rms_norm": _rms_norm,
    "rotary": _rotary,
    "rotary_angles": _rotary_angles,
    "route": _route,
    "sparse_attention": _attention,
    "swiglu": _swiglu,
    "write_pages": _write_pages,
    "write_pages_": _write_pages,
}
