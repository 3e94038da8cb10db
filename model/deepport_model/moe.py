"""Mixture of experts: learned or hash routing, routed experts, and an expert that every token shares."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deepport import formats, ops
from deepport_model.config import Config
from deepport_model.modules import Linear


class Router(nn.Module):
    """Chooses experts by score plus `bias`, or by token id from the frozen table `tid2eid` (section 2.1).

    `load` counts the tokens each expert got while training; `deepport_model.training` balances the bias by it.
    """

    def __init__(self, config: Config, hashed: bool) -> None:
        super().__init__()
        experts, self.k = config.n_routed_experts, config.num_experts_per_tok
        self.scoring, self.scale = config.scoring_func, config.routed_scaling_factor
        self.weight = nn.Parameter(torch.empty(experts, config.hidden_size))
        self.bias: Tensor | None
        self.tid2eid: Tensor | None
        table = torch.zeros(config.vocab_size, self.k, dtype=torch.int64)
        self.register_buffer("tid2eid", table if hashed else None)
        self.register_buffer("bias", None if hashed else torch.zeros(experts))
        self.register_buffer("load", torch.zeros(experts, device="cpu"), persistent=False)

    load: Tensor

    def forward(self, x: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """x [T, C] -> weights [T, k] float32, expert ids [T, k] int32."""
        logits = ops.linear(x, self.weight, wide=True)  # rounded ones would make experts change places
        ids_of_tokens = None if self.tid2eid is None else input_ids
        weights, ids = ops.route(logits, self.bias, self.k, self.scoring, self.scale, self.tid2eid, ids_of_tokens)
        if self.training:
            self.load += torch.zeros_like(self.load).scatter_add_(
                0, ids.flatten().long(), torch.ones_like(weights).flatten()
            )
        return weights, ids


class Experts(nn.Module):
    """The routed experts' stacked weights: `w13` [E, 2*I, C], the gate half first, and `w2` [E, C, I]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        experts, width, hidden = config.n_routed_experts, config.hidden_size, config.moe_intermediate_size
        self.w13 = nn.Parameter(torch.empty(experts, 2 * hidden, width))
        self.w2 = nn.Parameter(torch.empty(experts, width, hidden))
        self.w13_scale: nn.Parameter | None = None
        self.w2_scale: nn.Parameter | None = None
        self.format = formats.PLAIN
        self.limit = config.swiglu_limit

    def forward(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        return ops.moe_experts(
            x, ids, weights, self.w13, self.w2, self.limit, self.w13_scale, self.w2_scale, self.format
        )


class Expert(nn.Module):
    """One gated feed-forward network: `w2 swiglu(w1 x, w3 x)`."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden = config.moe_intermediate_size * config.n_shared_experts
        self.w1 = Linear(config.hidden_size, hidden)
        self.w2 = Linear(hidden, config.hidden_size)
        self.w3 = Linear(config.hidden_size, hidden)
        self.limit = config.swiglu_limit

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.w2(ops.swiglu(self.w1(x), self.w3(x), self.limit))
        return y


class MoE(nn.Module):
    """Routed experts plus the shared one."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.gate = Router(config, config.hash_layers[layer])
        self.experts = Experts(config)
        self.shared_experts = Expert(config)

    def forward(self, x: Tensor, input_ids: Tensor) -> Tensor:
        weights, ids = self.gate(x, input_ids)
        y: Tensor = self.experts(x, ids, weights) + self.shared_experts(x)
        return y
