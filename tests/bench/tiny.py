"""A model that llama.cpp and transformers know, small enough for a test."""

from __future__ import annotations

import torch

from deepport import backend
from deepport_model import Model
from deepport_model.config import Config
from deepport_model.transformer import Transformer, cast, initialize

CONFIG = Config(
    vocab_size=96, hidden_size=64, num_hidden_layers=4, num_attention_heads=4, head_dim=32, qk_rope_head_dim=16,
    q_lora_rank=32, o_groups=2, o_lora_rank=32, compress_ratios=(0, 4, 128, 4), hash_layers=(True, False, False, False),
    n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=32, index_n_heads=8, index_head_dim=64, index_topk=8,
    initializer_range=0.1,
)  # fmt: skip


def transformer(dtype: torch.dtype = torch.float32) -> Transformer:
    """With random weights also where training begins with zeros or ones."""
    found = initialize(Transformer(CONFIG)).eval()
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in found.state_dict().items():
            if tensor.dim() == 1 and tensor.is_floating_point() and not name.endswith("frequencies"):
                tensor.add_(torch.randn(tensor.shape, generator=g) * 0.1)
            if name.endswith("ape"):
                tensor.normal_(0.0, 0.3, generator=g)
    return cast(found, dtype)


def model(dtype: torch.dtype = torch.float32) -> Model:
    return Model(transformer(dtype), None, backend.start("cpu"))
