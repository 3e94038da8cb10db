"""Fused routing: dispatch, grouped products, the sum back. Meaning: the vendor's pages named at each.

Data that a page forbids raises, as an operator that reads beside its memory would be noticed at some later time.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from cann.dispatch import aclnn
from cann.table import taken


def _check_routing(
    x: Tensor, experts: Tensor, scale: Tensor | None, offset: Tensor | None, active: int, capacity: int, number: int,
    drop: int, kind: int, counted: bool, quant: int, bounds: list[int], rows: int, *_: Tensor,
) -> None:  # fmt: skip
    taken(
        "npu_moe_init_routing_v2", x=x, expert_idx=experts, active_num=active, expert_capacity=capacity,
        expert_num=number, drop_pad_mode=drop, expert_tokens_num_type=kind, expert_tokens_num_flag=counted,
        quant_mode=quant, active_expert_range=bounds, row_idx_type=rows,
    )  # fmt: skip


@aclnn("aclnnMoeInitRoutingV3", "T T T? T? l l l l l b l I l | T T T T", check=_check_routing)
def init_routing(
    x: Tensor, experts: Tensor, scale: Tensor | None, offset: Tensor | None, active: int, capacity: int, number: int,
    drop: int, kind: int, counted: bool, quant: int, bounds: list[int], rows: int,
    sorted_x: Tensor, places: Tensor, counts: Tensor, scales: Tensor,
) -> None:  # fmt: skip
    """ops-transformer, aclnnMoeInitRoutingV3: copies sorted by expert, those in range first; others are not written, place -1."""
    flat, low, high = experts.flatten().long(), *bounds
    if bool((flat >= number).any()):
        raise ValueError(f"an expert's id is not below {number}")
    inside = (flat >= low) & (flat < high)
    order = flat.masked_fill(~inside, number).sort(stable=True).indices
    available = int(inside.sum())
    sorted_x[:available] = x[order[:available] // experts.shape[1]]
    if x.is_floating_point():
        sorted_x[available:] = torch.nan
    gather = torch.full_like(order, -1)
    gather[order[:available]] = torch.arange(available)
    places.copy_(order if rows else gather)
    counts.copy_(torch.bincount(flat[inside] - low, minlength=high - low))


def _check_unpermute(rows: Tensor, places: Tensor, probs: Tensor | None, *_: object) -> None:
    taken("npu_moe_token_unpermute", permuted_tokens=rows, sorted_indices=places, probs=probs)


@aclnn("aclnnMoeTokenUnpermute", "T T T? b I? | T", check=_check_unpermute)
def unpermute(rows: Tensor, places: Tensor, probs: Tensor, padded: bool, shape: list[int] | None, out: Tensor) -> None:
    """ops-transformer, aclnnMoeTokenUnpermute: `out[t] = sum_j probs[t, j] rows[places[t k + j]]`; no place twice."""
    if not torch.equal(places.long().sort().values, torch.arange(len(rows))):
        raise ValueError("places are no permutation of the rows")
    taken_rows = rows.float()[places.long()].view(*probs.shape, -1)
    out.copy_((taken_rows * probs.float()[..., None]).sum(1))


def _check_grouped(x: list[Tensor], weight: list[Tensor], *rest: object) -> None:
    groups, (split, kind, listed) = rest[6], rest[10:13]
    taken(
        "npu_grouped_matmul", x=x[0], weight=weight[0], group_list=groups, split_item=split, group_type=kind,
        group_list_type=listed,
    )  # fmt: skip


@aclnn("aclnnGroupedMatmulV5", "L L L? L? L? L? L? L? T? L? L? L? l l l l I? | L L? L?", check=_check_grouped)
def grouped_matmul(x: list[Tensor], weight: list[Tensor], *rest: object) -> None:
    """ops-transformer, aclnnGroupedMatmulV5, one tensor each: rows `groups[e-1]:groups[e]` times weight[e]; no row is left."""
    groups, listed, out = rest[6], rest[12], rest[15]
    assert isinstance(groups, Tensor) and isinstance(out, list)
    ends = groups.cumsum(0) if listed else groups
    bounds = [0, *ends.tolist()]
    if bounds[-1] != len(x[0]) or bounds != sorted(bounds):
        raise ValueError(f"the groups end at {bounds[-5:]}; they must rise to the number of rows, {len(x[0])}")
    for e, (low, high) in enumerate(pairwise(bounds)):
        out[0][low:high] = x[0][low:high].float() @ weight[0][e].float()
