"""Training: the loss, an optimiser step, and the router's balance. Runs on any backend, through operators' gradients.

Two parts of the model are not trained by the language-model loss. The router's bias follows `balance`. The indexer only has an
effect where it must choose: while sequences have at most `compress ratio * index_topk` tokens it keeps every entry, and
`check_selection_is_exact` makes sure of that.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from deepport.errors import BadInput
from deepport_model.config import Config
from deepport_model.engram import EngramTable
from deepport_model.moe import Router
from deepport_model.transformer import Transformer


def loss(model: Transformer, input_ids: Tensor) -> Tensor:
    """Mean cross-entropy, in nats, of each token given those before it: input_ids [B, S+1]."""
    logits = model(input_ids[:, :-1])
    return functional.cross_entropy(logits.flatten(0, 1), input_ids[:, 1:].flatten())


def optimizer(model: Transformer, lr: float, weight_decay: float = 0.1, memory_lr: float = 5.0) -> torch.optim.AdamW:
    """AdamW; matrices decay, vectors do not, and memory tables learn `memory_lr` times faster without decay.

    A group's `lr_scale` is what a schedule multiplies its rate by.

    Source of the tables' treatment: Engram, arXiv 2601.07372, section 4.1. Parameters that the loss gives no gradient (the
    indexer's) are left as they are.
    """
    tables = {id(m.rows) for m in model.modules() if isinstance(m, EngramTable)}
    memory = [p for p in model.parameters() if id(p) in tables]
    others = [p for p in model.parameters() if id(p) not in tables and p.requires_grad]
    return torch.optim.AdamW(
        [
            {"params": [p for p in others if p.dim() > 1], "weight_decay": weight_decay, "lr_scale": 1.0},
            {"params": [p for p in others if p.dim() <= 1], "weight_decay": 0.0, "lr_scale": 1.0},
            {"params": memory, "weight_decay": 0.0, "lr_scale": memory_lr, "lr": lr * memory_lr},
        ],
        lr=lr,
        betas=(0.9, 0.95),
    )


@torch.no_grad()
def balance(model: Transformer, speed: float = 0.001) -> float:
    """Move each learned router's bias by `speed` toward an even load, and start counting anew.

    `bias_e += speed * sign(mean load - load_e)`: balancing without an auxiliary loss (arXiv 2408.15664; DeepSeek-V3, section
    2.1.2). Returns the worst expert's load, relative to the mean.
    """
    ratios = []
    for router in (m for m in model.modules() if isinstance(m, Router)):
        if router.bias is not None:
            mean = router.load.mean()
            router.bias += speed * (mean - router.load).sign()
            ratios.append(router.load.max() / mean)  # NaN where there were no tokens
        router.load.zero_()
    return float(torch.stack(ratios).nan_to_num(0.0).max().cpu()) if ratios else 0.0


def check_selection_is_exact(config: Config, length: int) -> None:
    """Refuse sequences so long that an untrained indexer would have to choose."""
    if (
        any(config.overlaps(i) for i in range(config.num_hidden_layers))
        and length > config.csa_ratio * config.index_topk
    ):
        raise BadInput(
            f"sequences of {length} tokens have more than index_topk = {config.index_topk} entries to choose from; train with at "
            f"most {config.csa_ratio * config.index_topk} tokens, where selection is exact and the indexer needs no training"
        )
