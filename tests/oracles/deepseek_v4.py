"""transformers' DeepSeek-V4 with tiny random weights: the float32 oracle of meaning."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM
from transformers.utils import logging

from deepport import ops
from deepport_model.checkpoint import names
from deepport_model.config import Config, Yarn
from deepport_model.transformer import Transformer

logging.set_verbosity_error()

VOCABULARY, WIDTH, EXPERTS, PICKED = 64, 32, 8, 2
YARN = Yarn(factor=16.0, original_max_position_embeddings=64)


@dataclass(frozen=True)
class Shape:
    """What differs between the configurations under test."""

    ratios: tuple[int, ...] = (0, 4, 128, 4)
    hashed: int = 1
    streams: int = 4
    window: int = 8
    topk: int = 8
    yarn: bool = False
    scoring: str = "sqrtsoftplus"


SHAPES = {
    "all-layer-types": Shape(),
    "yarn": Shape(yarn=True),
    "flash-schedule": Shape(ratios=(0, 0, 4, 128, 4), hashed=3, yarn=True),
    "pro-schedule": Shape(ratios=(128, 128, 4, 128), hashed=3),
    "window-only": Shape(ratios=(0, 0), hashed=0, window=128),
    "csa-only": Shape(ratios=(4, 4), hashed=2, topk=64),
    "two-streams": Shape(streams=2),
    "six-streams-sigmoid": Shape(streams=6, scoring="sigmoid"),
}


def config(shape: Shape) -> Config:
    layers = len(shape.ratios)
    return Config(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=layers, num_attention_heads=4, head_dim=16,
        qk_rope_head_dim=8, q_lora_rank=16, o_groups=2, o_lora_rank=8, compress_ratios=shape.ratios,
        hash_layers=tuple(i < shape.hashed for i in range(layers)), n_routed_experts=EXPERTS, num_experts_per_tok=PICKED,
        moe_intermediate_size=16, index_n_heads=8, index_head_dim=16, index_topk=shape.topk, sliding_window=shape.window,
        hc_mult=shape.streams, yarn=YARN if shape.yarn else None, scoring_func=shape.scoring,
    )  # fmt: skip


def oracle(shape: Shape, seed: int) -> DeepseekV4ForCausalLM:
    """Random weights everywhere, also where training would start from zeros or ones."""
    rope: dict[str, Any] = {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 64}
    c = DeepseekV4Config(
        vocab_size=VOCABULARY, hidden_size=WIDTH, moe_intermediate_size=16, num_hidden_layers=len(shape.ratios),
        num_attention_heads=4, head_dim=16, q_lora_rank=16, n_routed_experts=EXPERTS, num_experts_per_tok=PICKED,
        compress_ratios=list(shape.ratios), num_hash_layers=shape.hashed, sliding_window=shape.window, o_groups=2,
        o_lora_rank=8, index_n_heads=8, index_head_dim=16, index_topk=shape.topk, qk_rope_head_dim=8, hc_mult=shape.streams,
        scoring_func=shape.scoring, rope_parameters=rope if shape.yarn else None,
    )  # fmt: skip
    c._experts_implementation = "eager"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = DeepseekV4ForCausalLM(c).eval()
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=g)
            parameter.copy_(1 + 0.1 * noise if "norm" in name else noise * (0.3 if parameter.dim() > 1 else 0.5))
        for name, buffer in model.named_buffers():
            if name.endswith("tid2eid"):
                buffer.copy_(torch.rand(buffer.shape[0], EXPERTS, generator=g).argsort(-1)[:, :PICKED])
            if name.endswith("correction_bias"):
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=g))
    return model


def ours(shape: Shape, model: DeepseekV4ForCausalLM) -> Transformer:
    """Our model with the oracle's weights."""
    transformer = Transformer(config(shape)).eval()
    state = {names.place(name).target: tensor for name, tensor in model.state_dict().items()}
    transformer.load_state_dict(state, strict=True)
    return transformer


def relative_error(ours: Tensor, oracle: Tensor) -> float:
    """max|difference| / max|oracle|."""
    return float((ours.double() - oracle.double()).abs().max() / oracle.double().abs().max())


@dataclass
class Margin:
    """The least distance, relative to the largest score, between the last chosen and the first left."""

    least: float = float("inf")

    def note(self, scores: Tensor, k: int) -> None:
        if scores.shape[-1] > k and scores.numel():
            best = scores.sort(-1, descending=True).values
            gap = best[..., k - 1] - best[..., k]
            relative = gap / scores.masked_fill(scores.isinf(), 0).abs().amax(-1)
            if (known := gap.isfinite()).any():  # elsewhere there are no more than k candidates
                self.least = min(self.least, float(relative[known].nan_to_num(0.0).min()))


_SCORING = {
    "sqrtsoftplus": lambda x: functional.softplus(x).sqrt(),
    "sigmoid": torch.sigmoid,
    "softmax": lambda x: x.softmax(-1),
}


@contextmanager
def margins() -> Iterator[Margin]:
    """Watch every selection, of compressed entries and of experts, made inside the context."""
    margin, index, route = Margin(), ops.index_topk, ops.route

    def spy_index(q: Tensor, weights: Tensor, pages: Tensor, table: Tensor, positions: Tensor, *rest: Any) -> Tensor:
        cu_seqlens, ratio, k = rest
        for b in range(len(table)):
            rows = slice(int(cu_seqlens[b]), int(cu_seqlens[b + 1]))
            keys = pages[table[b].long()].flatten(0, 1).double()
            scores = torch.einsum("ths,th->ts", (q[rows].double() @ keys.T).relu(), weights[rows].double())
            hidden = torch.arange(len(keys)) >= ((positions[rows] + 1) // ratio)[:, None]
            margin.note(scores.masked_fill(hidden, -torch.inf), k)
        return index(q, weights, pages, table, positions, *rest)

    def spy_route(logits: Tensor, bias: Tensor | None, k: int, scoring: str, *rest: Any) -> tuple[Tensor, Tensor]:
        if rest[-1] is None:  # not hash-routed
            margin.note(_SCORING[scoring](logits.double()) + (0 if bias is None else bias), k)
        return route(logits, bias, k, scoring, *rest)

    ops.index_topk, ops.route = spy_index, spy_route  # type: ignore[assignment]
    try:
        yield margin
    finally:
        ops.index_topk, ops.route = index, route
