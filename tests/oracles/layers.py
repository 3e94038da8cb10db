"""Single layers of transformers' DeepSeek-V4 and Qwen4-Exp, tiny, with random weights."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import DeepseekV4Config, Qwen4ExpTextConfig
from transformers.cache_utils import DynamicCache

WIDTH, HEAD, LATENT = 32, 16, 16


def deepseek_config(**changes: Any) -> DeepseekV4Config:
    """Layer 0 sees a window only, layer 1 is CSA (ratio 4), layer 2 HCA (ratio 128)."""
    options: dict[str, Any] = {
        "vocab_size": 64, "hidden_size": WIDTH, "moe_intermediate_size": 16, "num_hidden_layers": 3,
        "num_attention_heads": 4, "head_dim": HEAD, "q_lora_rank": LATENT, "n_routed_experts": 8, "num_experts_per_tok": 3,
        "compress_ratios": [0, 4, 128], "num_hash_layers": 1, "sliding_window": 8, "o_groups": 2, "o_lora_rank": 8,
        "index_n_heads": 8, "index_head_dim": HEAD, "index_topk": 5, "qk_rope_head_dim": 8, "hc_mult": 4,
    }  # fmt: skip
    config = DeepseekV4Config(**(options | changes))
    config._experts_implementation = "eager"
    return config


def deepseek_cache() -> DynamicCache:
    return DynamicCache(config=deepseek_config())


def qwen_config(**changes: Any) -> Qwen4ExpTextConfig:
    options: dict[str, Any] = {
        "vocab_size": 64, "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "linear_num_value_heads": 2, "linear_num_key_heads": 2, "hc_count": 4, "ple_layer_ids": [1], "ple_embed_dim": 24,
        "ngram_size": 4, "heads_per_ngram": 2, "ngram_vocab_size_base": 50, "make_ngram_vocab_size_divisible_by": 1,
        "eos_token_id": 2,
    }  # fmt: skip
    return Qwen4ExpTextConfig(**(options | changes))


Module = TypeVar("Module", bound=nn.Module)


def randomised(module: Module, seed: int) -> Module:
    """Random weights everywhere, also where training would start from zeros or ones."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=g)
            parameter.copy_(noise * (0.3 if parameter.dim() > 1 else 0.5))
    return module.eval()


def hidden(seed: int, tokens: int) -> Tensor:
    return torch.randn(1, tokens, WIDTH, generator=torch.Generator().manual_seed(seed))
