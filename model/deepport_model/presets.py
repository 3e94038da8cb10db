"""Configurations by name.

`demo` is a trained checkpoint in this package; `mini`, `mini-engram` and `tiny` are for benchmarks, with random weights;
`v4-flash` and `v4-pro` are the true dimensions, for planning and on meta; `v4-flash-engram` is V4-Flash with the memories of
V4.1-Flash, a model that nobody has published, to plan where they may lie.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deepport_model.config import Config, EngramConfig

DEMO = Path(__file__).parent / "demo" / "checkpoint"


def _schedule(first: tuple[int, ...], layers: int) -> tuple[int, ...]:
    """The first layers' ratios, then CSA and HCA in turn."""
    return (*first, *(4 if i % 2 == 0 else 128 for i in range(layers - len(first))))


def _hashed(first: int, layers: int) -> tuple[bool, ...]:
    return tuple(i < first for i in range(layers))


MINI = Config(
    vocab_size=8192,
    hidden_size=1024,
    num_hidden_layers=8,
    num_attention_heads=16,
    head_dim=256,
    qk_rope_head_dim=64,
    q_lora_rank=512,
    o_groups=4,
    o_lora_rank=256,
    compress_ratios=(0, 0, 4, 128, 4, 128, 4, 128),
    hash_layers=_hashed(2, 8),
    n_routed_experts=64,
    num_experts_per_tok=6,
    moe_intermediate_size=512,
    index_n_heads=16,
    index_head_dim=64,
    index_topk=256,
)
"""0.9B parameters: the whole-model configuration of the project's performance measurements."""

V4_FLASH = Config(
    vocab_size=129280,
    hidden_size=4096,
    num_hidden_layers=43,
    num_attention_heads=64,
    head_dim=512,
    qk_rope_head_dim=64,
    q_lora_rank=1024,
    o_groups=8,
    o_lora_rank=1024,
    compress_ratios=_schedule((0, 0), 43),
    hash_layers=_hashed(3, 43),
    n_routed_experts=256,
    num_experts_per_tok=6,
    moe_intermediate_size=2048,
    index_n_heads=64,
    index_head_dim=128,
    index_topk=512,
    routed_scaling_factor=1.5,
)
"""DeepSeek-V4-Flash: 284B parameters, 13B active."""

V4_PRO = replace(
    V4_FLASH,
    hidden_size=7168,
    num_hidden_layers=61,
    num_attention_heads=128,
    q_lora_rank=1536,
    o_groups=16,
    compress_ratios=_schedule((128, 128), 61),
    hash_layers=_hashed(3, 61),
    n_routed_experts=384,
    moe_intermediate_size=3072,
    index_topk=1024,
    routed_scaling_factor=2.5,
)
"""DeepSeek-V4-Pro: 1.6T parameters, 49B active."""

_MINI_ENGRAM = EngramConfig(
    layer_ids=(1, 4),
    engram_vocab_size=(20_000, 20_000),
    compressed_vocab_size=8192,
    max_ngram_size=3,
    n_embed_per_ngram=512,
)

V4_1_ENGRAM = EngramConfig(
    layer_ids=(1, 14),
    engram_vocab_size=(16_000_000, 16_000_000, 16_000_000),
    compressed_vocab_size=99092,
    max_ngram_size=4,
    n_embed_per_ngram=2048,
    kernel_size=0,
)
"""The memories of DeepSeek-V4.1-Flash, 196B parameters: 24 rows of 256 for a token in each of two layers."""

TINY = replace(
    MINI,
    vocab_size=256,
    hidden_size=64,
    num_attention_heads=4,
    head_dim=32,
    qk_rope_head_dim=16,
    q_lora_rank=32,
    o_groups=2,
    o_lora_rank=16,
    n_routed_experts=8,
    num_experts_per_tok=2,
    moe_intermediate_size=32,
    index_n_heads=4,
    index_head_dim=32,
    index_topk=16,
)
"""As deep as `mini`, with next to nothing to compute: what a step takes beside its arithmetic."""

PRESETS: dict[str, Config] = {
    "mini": MINI,
    "mini-engram": replace(MINI, engram=_MINI_ENGRAM),
    "tiny": TINY,
    "v4-flash": V4_FLASH,
    "v4-flash-engram": replace(V4_FLASH, engram=V4_1_ENGRAM),
    "v4-pro": V4_PRO,
}
