"""What is timed of every operator: the shapes that a step of a model gives it, when it decodes and when it reads a prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Generator

from deepport.bench import shapes
from deepport.bench.shapes import Arguments
from deepport.conformance.grids.captured import ENGRAM
from deepport.conformance.grids.gradients import backward
from deepport.formats import PLAIN
from deepport.op import operators
from deepport.ops.dense import rms_norm_arguments, rotary_angles_arguments, rotary_arguments
from deepport.ops.engram import conv_arguments, gate_arguments, hash_arguments
from deepport.ops.mhc import collapse_arguments, post_arguments
from deepport.ops.moe import combine_arguments, dispatch_arguments, route_arguments, swiglu_arguments
from deepport.ops.quantize import dequantize_arguments, quantize_arguments
from deepport_model.config import Config, EngramConfig
from deepport_model.presets import PRESETS, V4_FLASH

MODELS: dict[str, Config] = {
    "mini": PRESETS["mini"],
    "mini-engram": PRESETS["mini-engram"],
    "v4-flash": V4_FLASH,
    "engram": replace(V4_FLASH, engram=ENGRAM),
}
"""Whose shapes; `engram`: V4-Flash with the memory of V4.1-Flash."""

DECODE, PREFILL = 1, 512
DEPTH = 8192
"""Tokens of the sequence that attention sees: whole pages in every kind of layer."""

_BATCHES = (DECODE, 16, 128, 1024)
"""Tokens of a call, for what is most of the work and behaves differently in between."""

_EXPERTS = 32
"""Experts that are kept of a model that has more, each as large as it is: a machine's memory holds no more of V4-Flash's."""

_TABLE = 1 << 30
"""Bytes of a memory: beyond every cache, and most of a TLB's reach."""

_DENSE, _EXPERT, _MEMORY = ("fp8_e4m3:128x128", "int8:row"), "mxfp4", "fp8_e4m3:1x32"

Vary = Callable[[Arguments, int], Arguments]


@dataclass(frozen=True)
class Work:
    """One call to time.

    Attributes:
        model: whose shapes they are (`MODELS`).
        build: draws the arguments.
        streamed: the arguments that come from memory in a model: weights and tables.
        vary: changes what a call reads of them, by number.
        row: bytes that lie together, where they are read at random.
        brief: among those that represent their operator where time is short.
    """

    operator: str
    model: str
    tokens: int
    label: str
    build: Callable[[Generator], Arguments]
    dtype: torch.dtype
    format: str = PLAIN
    streamed: tuple[str, ...] = ()
    vary: Vary | None = None
    row: int = 0
    brief: bool = False


Works = Iterator[Work]


def works(dtype: torch.dtype) -> list[Work]:
    """All of them, with activations and plain weights of this dtype."""
    return [replace(w, model=name) for name, c in MODELS.items() for w in _of(name, c, dtype)]


def _of(name: str, c: Config, dtype: torch.dtype) -> Works:
    """The works of a model; of one with a memory those of the memory alone, for the others are another's too."""
    families = _MEMORIES if c.engram is not None else _FAMILIES
    if name == "mini":
        families = (*families, _gradients)
    for family in families:
        for work in family(c, dtype):
            yield replace(work, brief=work.brief and name.startswith("mini"))


def _work(operator: str, tokens: int, label: str, build: Any, dtype: torch.dtype, *given: Any, **facts: Any) -> Work:
    return Work(operator, "", tokens, label, lambda g: build(g, *given), dtype, **facts)


def dense(c: Config) -> dict[str, tuple[int, int]]:
    """`(inputs, outputs)` of the linear layers that are most of a step, by their name in the model."""
    width, hidden = c.hidden_size, c.moe_intermediate_size * c.n_shared_experts
    return {
        "wq_a": (width, c.q_lora_rank),
        "wq_b": (c.q_lora_rank, c.num_attention_heads * c.head_dim),
        "wkv": (width, c.head_dim),
        "wo_b": (c.o_groups * c.o_lora_rank, width),
        "w1": (width, hidden),
        "w2": (hidden, width),
        "head": (width, c.vocab_size),
    }


def _linear(c: Config, dtype: torch.dtype) -> Works:
    for name, (k, n) in dense(c).items():
        for format in (PLAIN, *_DENSE):
            for t in (DECODE,) if name == "head" else _BATCHES:  # only a sequence's last token needs the head
                brief = t == DECODE and (name == "wq_b" or (name == "head" and format == PLAIN))
                brief = brief or (name == "wq_b" and t == 128 and format == PLAIN)
                facts = {"format": format, "streamed": ("w", "scale"), "brief": brief}
                yield _work("linear", t, f"{name} {k} to {n}", shapes.linear, dtype, t, k, n, dtype, format, **facts)
    k, n = c.hidden_size, c.n_routed_experts
    facts = {"streamed": ("w",), "brief": True}
    yield _work(
        "linear", DECODE, f"gate {k} to {n}", shapes.linear, torch.float32, 1, k, n, torch.float32, PLAIN, **facts
    )


def _block_linear(c: Config, dtype: torch.dtype) -> Works:
    sizes = (c.o_groups, c.num_attention_heads * c.head_dim // c.o_groups, c.o_lora_rank)
    for t in (DECODE, PREFILL):
        for format in (PLAIN, *_DENSE):
            facts = {"format": format, "streamed": ("w", "scale"), "brief": format == PLAIN}
            label = "wo_a {} of {} to {}".format(*sizes)
            yield _work("block_linear", t, label, shapes.block_linear, dtype, t, sizes, dtype, format, **facts)


def _experts(c: Config, dtype: torch.dtype) -> Works:
    experts, k = min(c.n_routed_experts, _EXPERTS if c.hidden_size > 2048 else 64), c.num_experts_per_tok
    sizes = (experts, c.hidden_size, c.moe_intermediate_size)
    of = f" of {c.n_routed_experts}" if experts < c.n_routed_experts else ""
    label = f"{experts}{of} x {c.moe_intermediate_size} at {c.hidden_size}"
    for t in _BATCHES:
        for format in (PLAIN, _EXPERT):
            facts: dict[str, Any] = {"format": format, "brief": t in (DECODE, 128)}
            facts["streamed"] = ("w13", "w2", "w13_scale", "w2_scale")
            facts["vary"] = partial(_other_experts, t, k, experts)
            yield _work("moe_experts", t, label, shapes.moe_experts, dtype, t, k, sizes, dtype, format, **facts)
    for format in (PLAIN, _EXPERT):
        ekn = (experts, c.hidden_size, 2 * c.moe_intermediate_size)
        facts = {"format": format, "streamed": ("w", "scale"), "brief": False}
        yield _work("grouped_linear", 128, label, shapes.grouped_linear, dtype, 128 * k, ekn, dtype, format, **facts)


def _other_experts(t: int, k: int, experts: int, arguments: Arguments, number: int) -> Arguments:
    return {"ids": shapes.experts_ids(t, k, experts, number * t * k).to(arguments["ids"].device)}


def _routing(c: Config, dtype: torch.dtype) -> Works:
    experts, k, width = c.n_routed_experts, c.num_experts_per_tok, c.hidden_size
    for t in (DECODE, PREFILL):
        for mode in ("learned", "hash"):
            given = {"tokens": t, "experts": experts, "k": k, "scoring": c.scoring_func, "mode": mode}
            given |= {"dtype": torch.float32, "vocabulary": c.vocab_size}
            yield Work(
                "route", "", t, f"{mode} {k} of {experts}", _drawn(route_arguments, given), torch.float32, brief=True
            )
        given = {"tokens": t, "k": k, "experts": experts, "dropped": False, "dtype": dtype, "width": width}
        for name, build in (("moe_dispatch", dispatch_arguments), ("moe_combine", combine_arguments)):
            yield Work(name, "", t, f"{k} of {experts} at {width}", _drawn(build, given), dtype, brief=True)
        shape = {"shape": (t, c.moe_intermediate_size), "limit": c.swiglu_limit, "dtype": dtype}
        yield Work("swiglu", "", t, f"{c.moe_intermediate_size}", _drawn(swiglu_arguments, shape), dtype, brief=True)


def _drawn(build: Callable[..., Arguments], given: dict[str, Any]) -> Callable[[Generator], Arguments]:
    return lambda g: build(g, **given)


def _elementwise(c: Config, dtype: torch.dtype) -> Works:
    heads, size, pairs = c.num_attention_heads, c.head_dim, c.qk_rope_head_dim // 2
    for t in (DECODE, PREFILL):
        for shape, weighted in (((c.hidden_size,), True), ((heads, size), False)):
            given = {"shape": (t, *shape), "weighted": weighted, "dtype": dtype}
            label = "x".join(map(str, shape))
            yield Work("rms_norm", "", t, label, _drawn(rms_norm_arguments, given), dtype, brief=weighted)
        given = {"shape": (t, heads, size), "pairs": pairs, "inverse": False, "dtype": dtype}
        yield Work("rotary", "", t, f"{heads}x{size}, {2 * pairs}", _drawn(rotary_arguments, given), dtype, brief=True)
        given = {"tokens": t, "pairs": pairs, "ratio": 1, "depth": DEPTH}
        build = _drawn(rotary_angles_arguments, given)
        yield Work("rotary_angles", "", t, f"{pairs} pairs", build, torch.float32, brief=True)


def _streams(c: Config, dtype: torch.dtype) -> Works:
    n, width = c.hc_mult, c.hidden_size
    for t in (DECODE, PREFILL):
        shape = {"tokens": t, "n": n, "width": width, "dtype": dtype}
        for name, outputs in (("mhc_pre", "pre"), ("mhc_head", "head")):
            build = _drawn(collapse_arguments, shape | {"outputs": outputs})
            yield Work(name, "", t, f"{n}x{width}", build, dtype, streamed=("fn",), brief=True)
        yield Work("mhc_post", "", t, f"{n}x{width}", _drawn(post_arguments, shape), dtype, brief=True)


def _attention(c: Config, dtype: torch.dtype) -> Works:
    names = {0: "window", c.csa_ratio: f"window and {c.index_topk} selected"}
    for t in (DECODE, 128):
        for ratio in sorted(set(c.compress_ratios)):
            label = (
                f"{c.num_attention_heads}x{c.head_dim}, {names.get(ratio, f'window and all {DEPTH // max(ratio, 1)}')}"
            )
            given = (c, t, DEPTH, ratio, dtype)
            yield _work("sparse_attention", t, label, shapes.attention, dtype, *given, brief=ratio == c.csa_ratio)
        label = f"{c.index_n_heads}x{c.index_head_dim}, {c.index_topk} of {DEPTH // c.csa_ratio}"
        yield _work("index_topk", t, label, shapes.index_topk, dtype, c, t, DEPTH, dtype, brief=True)


def _caches(c: Config, dtype: torch.dtype) -> Works:
    for t in (DECODE, PREFILL):
        for ratio in sorted(set(c.compress_ratios) - {0}):
            overlap = ratio == c.csa_ratio
            given = (c.head_dim, t, DEPTH, ratio, overlap, dtype)
            label = f"{ratio} to 1, {c.head_dim}"
            yield _work("compress_kv_", t, label, shapes.compress, dtype, *given, brief=overlap)
        written = (c.head_dim, t, DEPTH, dtype)
        yield _work("write_pages_", t, f"{c.head_dim}", shapes.write_pages, dtype, *written, brief=True)


def _formats(c: Config, dtype: torch.dtype) -> Works:
    shape = (c.moe_intermediate_size, c.hidden_size)
    for format in (*_DENSE, _EXPERT):
        label, brief = "x".join(map(str, shape)), format == _EXPERT
        given = {"shape": shape, "format": format, "dtype": dtype}
        build = _drawn(quantize_arguments, given | {"power_of_two": True})
        yield Work("quantize", "", shape[0], label, build, dtype, format, brief=brief)
        yield Work("dequantize", "", shape[0], label, _drawn(dequantize_arguments, given), dtype, format, brief=brief)


def _memory(c: Config, dtype: torch.dtype) -> Works:
    e = c.engram or ENGRAM
    for t in (DECODE, PREFILL):
        for format in (PLAIN, _MEMORY):
            width = e.row_width
            row = width * (dtype.itemsize if format == PLAIN else 1)
            facts: dict[str, Any] = {"format": format, "streamed": ("rows", "scale"), "row": row, "vary": _other_rows}
            given = (_TABLE, width, (t, e.heads), dtype, format)
            label = f"{e.heads} rows of {row} B"
            yield _work("engram_gather", t, label, shapes.table, dtype, *given, **facts, brief=format == PLAIN)
        yield from _around_memory(c, e, t, dtype)


def _other_rows(arguments: Arguments, number: int) -> Arguments:
    g = Generator().manual_seed(number)
    ids = torch.randint(0, len(arguments["rows"]), arguments["ids"].shape, generator=g)
    return {"ids": ids.to(arguments["ids"].device)}


def _around_memory(c: Config, e: EngramConfig, t: int, dtype: torch.dtype) -> Works:
    layers, orders = len(e.layer_ids), e.max_ngram_size - 1
    given: dict[str, Any] = {"lengths": (t,), "layers": layers, "orders": orders, "heads": e.n_head_per_ngram}
    given |= {"boundary": None, "vocabulary": e.compressed_vocab_size, "largest": max(e.engram_vocab_size)}
    build = _drawn(partial(shapes.unpadded, hash_arguments, t), given)
    yield Work("engram_hash", "", t, f"{layers} layers of {e.heads}", build, torch.int64, brief=True)
    given = {"tokens": t, "n": c.hc_mult, "width": c.hidden_size, "zero": e.zero, "dtype": dtype}
    yield Work("engram_gate", "", t, f"{c.hc_mult}x{c.hidden_size}", _drawn(gate_arguments, given), dtype, brief=True)
    given = {
        "lengths": (t,),
        "kernel": e.kernel_size,
        "dilation": e.max_ngram_size,
        "n": c.hc_mult,
        "width": c.hidden_size,
    }
    label = f"{e.kernel_size} taps, {c.hc_mult}x{c.hidden_size}"
    build = _drawn(partial(shapes.unpadded, conv_arguments, t), given | {"dtype": dtype})
    yield Work("engram_conv_", "", t, label, build, dtype, brief=True)


def _gradients(c: Config, dtype: torch.dtype) -> Works:
    """Of the operators that are most of a training step, at a size at which one is made on the machine at hand."""
    t, n, width = PREFILL, c.hc_mult, c.hidden_size
    k, sizes = c.num_experts_per_tok, (c.n_routed_experts, width, c.moe_intermediate_size)
    inputs, outputs = dense(c)["wq_b"]
    streams = {"tokens": t, "n": n, "width": width, "dtype": dtype}
    collapse = _drawn(collapse_arguments, streams | {"outputs": "pre"})
    of: dict[str, tuple[str, Callable[[Generator], Arguments]]] = {
        "linear": (f"wq_b {inputs} to {outputs}", lambda g: shapes.linear(g, t, inputs, outputs, dtype, PLAIN)),
        "moe_experts": ("{0} x {2} at {1}".format(*sizes), lambda g: shapes.moe_experts(g, t, k, sizes, dtype, PLAIN)),
        "mhc_pre": (f"{n}x{width}", collapse),
        "mhc_post": (f"{n}x{width}", _drawn(post_arguments, streams)),
        "sparse_attention": (
            f"{c.num_attention_heads}x{c.head_dim}, window and all {t // c.csa_ratio} selected",
            lambda g: shapes.attention(g, c, t, t, c.csa_ratio, dtype),
        ),
    }
    for operator, (label, build) in of.items():
        yield Work(f"{operator}_backward", "", t, label, partial(_backward, operator, build), dtype, brief=True)


def _backward(operator: str, build: Callable[[Generator], Arguments], g: Generator) -> Arguments:
    return backward(g, operators[operator], build(g))


_FAMILIES = (
    _linear, _block_linear, _experts, _routing, _elementwise, _streams, _attention, _caches, _formats,
)  # fmt: skip
_MEMORIES = (_memory,)
