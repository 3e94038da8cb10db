"""Mixture of experts: hash routing, dispatch, grouped products, and the weighted sum back."""

from __future__ import annotations

import torch
from torch import Tensor

from deepport import composed, formats
from deepport.formats import accumulation
from deepport.kernel import YES, Kernel, Signature, Support, no
from deepport.ops.moe import SCORING
from deepport_npu.kernels.chip import Chip, every, laid


def kernels(chip: Chip) -> tuple[Kernel, ...]:
    return (
        Kernel("route", "hashed", hashed_route, _hashed),
        Kernel("moe_dispatch", "npu_moe_init_routing", moe_dispatch, lambda s: _dispatch(chip, s)),
        Kernel("moe_combine", "npu_moe_token_unpermute", moe_combine, lambda s: _combine(chip, s)),
        Kernel("grouped_linear", "npu_grouped_matmul", grouped_linear, lambda s: _grouped(chip, s)),
        Kernel("moe_experts", "composed", composed.moe_experts, lambda s: _composed(chip, s)),
    )


def hashed_route(
    logits: Tensor,
    bias: Tensor | None,
    k: int,
    scoring: str,
    scale: float,
    table: Tensor | None = None,
    input_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The table has chosen: only k of a token's E logits are scored."""
    if table is None or input_ids is None or bias is not None:
        raise ValueError("route: a table needs input_ids and no bias")
    ids = table[input_ids]
    weights = SCORING[scoring](logits.gather(1, ids).to(accumulation(logits.dtype)))
    return weights / (weights.sum(-1, keepdim=True) + 1e-20) * scale, ids.int()


def _hashed(call: Signature) -> Support:
    """npu_moe_gating_top_k serves no learned choice: no page says to which id a tie goes, and it has no sqrtsoftplus."""
    if call["table"] is None or call["input_ids"] is None or call["bias"] is not None:
        return no(
            "attribute", "not hash-routed; npu_moe_gating_top_k has no sqrtsoftplus, and its ties go to no certain id"
        )
    if call["scoring"] not in ("sqrtsoftplus", "sigmoid"):
        return no("attribute", f"{call['scoring']} scores a logit by all others")
    return YES


def moe_dispatch(x: Tensor, ids: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """A dropped copy goes to an expert more, which is not active: its row comes last, and is not written."""
    import torch_npu

    rows, inverse, counts, _ = torch_npu.npu_moe_init_routing_v2(
        x.contiguous(), ids.masked_fill(ids < 0, experts), active_num=-1, expert_capacity=-1, expert_num=experts + 1,
        drop_pad_mode=0, expert_tokens_num_type=1, expert_tokens_num_flag=True, quant_mode=-1,
        active_expert_range=[0, experts], row_idx_type=0,
    )  # fmt: skip
    offsets = torch.cat((counts.new_zeros(1), counts.cumsum(0))).int()
    return rows, offsets, inverse.view(ids.shape)


def _dispatch(chip: Chip, call: Signature) -> Support:
    x, ids, experts = call["x"], call["ids"], call["experts"]
    return chip.takes(
        "npu_moe_init_routing_v2", x=laid(x.dtype, *x.shape), expert_idx=laid(ids.dtype, *ids.shape), active_num=-1,
        expert_capacity=-1, expert_num=experts + 1, drop_pad_mode=0, expert_tokens_num_type=1,
        expert_tokens_num_flag=True, quant_mode=-1, active_expert_range=(0, experts), row_idx_type=0,
    )  # fmt: skip


def moe_combine(y: Tensor, weights: Tensor, inverse: Tensor, ids: Tensor) -> Tensor:
    """The vendor wants a permutation of all rows: dropped copies get those at the end, zeroed, since 0 times NaN is NaN.

    Rows of other tokens as well are left out first.
    """
    import torch_npu

    dropped = (ids < 0).flatten()
    places, count = inverse.flatten().long(), ids.numel()
    each = torch.arange(count, device=y.device)
    if y.shape[0] == count:
        kept = count - dropped.sum()
        rows = y.masked_fill((each >= kept)[:, None], 0.0)
        places = torch.where(dropped, kept + dropped.long().cumsum(0) - 1, places)
    else:
        rows = y.index_select(0, places.masked_fill(dropped, 0)).masked_fill(dropped[:, None], 0.0)
        places = each
    found: Tensor = torch_npu.npu_moe_token_unpermute(rows, places.int(), weights.masked_fill(ids < 0, 0.0))
    return found


def _combine(chip: Chip, call: Signature) -> Support:
    y, weights, ids = call["y"], call["weights"], call["ids"]
    copies = ids.shape[0] * ids.shape[1]
    return chip.takes(
        "npu_moe_token_unpermute",
        permuted_tokens=laid(y.dtype, copies, y.shape[1]),
        sorted_indices=laid(torch.int32, copies),
        probs=laid(weights.dtype, *weights.shape),
    )


def grouped_linear(x: Tensor, w: Tensor, scale: Tensor | None, format: str, offsets: Tensor) -> Tensor:
    """The groups of the vendor's make up all rows: the last expert takes those behind it too, which become 0 again."""
    import torch_npu

    count = x.shape[0]
    ends = torch.cat((offsets[1:-1].long(), offsets.new_full((1,), count, dtype=torch.int64)))
    (y,) = torch_npu.npu_grouped_matmul(
        [x.contiguous()], [w.transpose(1, 2)], group_list=ends, split_item=3, group_type=0, group_list_type=0
    )
    behind = torch.arange(count, device=x.device) >= offsets[-1]
    found: Tensor = y.masked_fill_(behind[:, None], 0.0)
    return found


def _grouped(chip: Chip, call: Signature) -> Support:
    if call["format"] != formats.PLAIN:
        return no("format", f"npu_grouped_matmul on {call['format']} weights would round x as well")
    x, w, offsets = call["x"], call["w"], call["offsets"]
    return chip.takes(
        "npu_grouped_matmul",
        x=laid(x.dtype, *x.shape),
        weight=laid(w.dtype, w.shape[0], w.shape[2], w.shape[1]),
        group_list=laid(torch.int64, offsets.shape[0] - 1),
        split_item=3,
        group_type=0,
        group_list_type=0,
    )


def _composed(chip: Chip, call: Signature) -> Support:
    """Worth it where the vendor multiplies."""
    if call["format"] != formats.PLAIN:
        return no("format", f"npu_grouped_matmul on {call['format']} weights would round x as well")
    x, ids, w13, w2 = call["x"], call["ids"], call["w13"], call["w2"]
    copies = ids.shape[0] * ids.shape[1]

    def product(w: tuple[int, ...], dtype: torch.dtype) -> Support:
        return chip.takes(
            "npu_grouped_matmul",
            x=laid(x.dtype, copies, w[2]),
            weight=laid(dtype, w[0], w[2], w[1]),
            group_list=laid(torch.int64, w[0]),
        )

    return every(product(w13.shape, w13.dtype), product(w2.shape, w2.dtype))
