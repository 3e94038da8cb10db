"""Fused indexer and sparse attention. Meaning: the vendor's pages named at each; what they leave open is made unkind."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cann.dispatch import aclnn
from cann.table import taken


def _check_indexer(
    q: Tensor, key: Tensor, weights: Tensor, queries: Tensor | None, keys: Tensor | None, blocks: Tensor | None,
    layout_query: str, layout_key: str, count: int, mode: int, before: int, after: int, values: bool, *_: Tensor,
) -> None:  # fmt: skip
    taken(
        "npu_lightning_indexer", query=q, key=key, weights=weights, actual_seq_lengths_query=queries,
        actual_seq_lengths_key=keys, block_table=blocks, layout_query=layout_query, layout_key=layout_key,
        sparse_count=count, sparse_mode=mode, return_value=values,
    )  # fmt: skip


@aclnn("aclnnLightningIndexer", "T T T T? T? T? s s l l l l b | T T?", check=_check_indexer)
def lightning_indexer(
    q: Tensor, key: Tensor, weights: Tensor, queries: Tensor | None, keys: Tensor, blocks: Tensor,
    layout_query: str, layout_key: str, count: int, mode: int, before: int, after: int, values: bool,
    out: Tensor, scores_out: Tensor | None,
) -> None:  # fmt: skip
    """ops-transformer, LightningIndexer: the `count` best keys by `sum_n w_n relu(q_n . k)`, then -1.

    In order of score, and equal scores to the highest id: neither order is documented, and a later source wins in
    vllm-ascend#15053. Mode 3 lets the last query see all keys, and each before it one less.
    """
    out.fill_(-1)
    tokens, page = q.shape[1], key.shape[1]
    for b, length in enumerate(keys.tolist()):
        entries = torch.arange(length)
        found = key[blocks[b, entries // page].long(), entries % page, 0].float()
        products = torch.einsum("snd,td->snt", q[b].float(), found).relu()
        scores = torch.einsum("snt,sn->st", products, weights[b].float())
        if mode == 3:
            scores.masked_fill_(entries > torch.arange(tokens)[:, None] + length - tokens, -torch.inf)
        order = length - 1 - scores.flip(1).sort(descending=True, stable=True).indices[:, :count]
        order = order.masked_fill(scores.gather(1, order) == -torch.inf, -1)
        out[b, :, 0, : order.shape[1]] = order.int()


def _check_attention(
    q: Tensor, key: Tensor, value: Tensor | None, indices: Tensor, blocks: Tensor | None, queries: Tensor | None,
    keys: Tensor | None, q_rope: Tensor | None, key_rope: Tensor | None, *rest: Any,
) -> None:  # fmt: skip
    scale, block, layout_query, layout_kv, mode, _, _, attention, lse = rest[-12:-3]
    sinks = {"sinks": rest[0]} if isinstance(rest[0], Tensor) else {}
    taken(
        "npu_sparse_flash_attention", query=q, key=key, value=value, sparse_indices=indices, query_rope=q_rope,
        key_rope=key_rope, scale_value=scale, sparse_block_size=block, layout_query=layout_query, layout_kv=layout_kv,
        sparse_mode=mode, attention_mode=attention, return_softmax_lse=lse, **sinks,
    )  # fmt: skip


@aclnn("aclnnSparseFlashAttention", "T T T T T? T? T? T? T? d l s s l l l l b | T T T", check=_check_attention)
def sparse_attention(*arguments: Any) -> None:
    given: list[Any] = [*arguments[:9], None, *arguments[9:]]
    sparse_attention_v2(*given)


@aclnn("aclnnSparseFlashAttentionV2", "T T T? T T? T? T? T? T? T? d l s s l l l l b | T T T", check=_check_attention)
def sparse_attention_v2(
    q: Tensor, key: Tensor, value: Tensor | None, indices: Tensor, blocks: Tensor | None, queries: Tensor | None,
    keys: Tensor | None, q_rope: Tensor, key_rope: Tensor, sinks: Tensor | None, scale: float, block: int,
    layout_query: str, layout_kv: str, mode: int, before: int, after: int, attention: int, lse: bool,
    out: Tensor, most: Tensor, total: Tensor,
) -> None:  # fmt: skip
    """ops-transformer, SparseFlashAttention, mode 2: q and k with their rotated parts behind them; values without.

    The maximum is of scaled scores, as vllm-ascend's tests of it on a chip have it. Listed keys come first, -1 after.
    """
    listed = indices[0, :, 0].long()
    there = listed >= 0
    if bool((there[:, 1:] & ~there[:, :-1]).any()):
        raise ValueError("a key is listed behind a -1")
    wide_q, wide_k = torch.cat((q, q_rope), -1)[0].float(), torch.cat((key, key_rope), -1)[0, :, 0].float()
    chosen = wide_k[listed.clamp(min=0)]
    scores = torch.einsum("snd,skd->snk", wide_q, chosen) * scale
    scores = scores.masked_fill(~there[:, None], -torch.inf)
    extra = (
        scores.new_empty((*scores.shape[:2], 0))
        if sinks is None
        else sinks.float()[None, :, None].expand(len(q[0]), -1, 1)
    )
    everything = torch.cat((scores, extra), -1)
    peak = everything.amax(-1)
    weights = (everything - peak[..., None]).exp()
    sums = weights.sum(-1)
    values = (key if value is None else value)[0, :, 0].float()[listed.clamp(min=0)]
    out[0] = torch.einsum("snk,skd->snd", weights[..., : listed.shape[1]] / sums[..., None], values).to(out.dtype)
    if lse:
        most[0, 0], total[0, 0] = peak, sums
