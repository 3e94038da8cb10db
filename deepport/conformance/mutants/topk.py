"""Mutants of the choice of compressed entries."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from deepport.conformance.mutants.mutant import Given, Mutant, asked, rounded, written
from deepport.ops import index_topk
from deepport.ragged import read_pages, segments


def mutants() -> Iterator[Mutant]:
    yield from _asked_topk()
    yield from _written_topk()


def _asked_topk() -> Iterator[Mutant]:
    yield asked(
        index_topk, "causality_off_by_one", "the token at p sees entries s < p // ratio",
        lambda g: {"positions": (g["positions"] - 1).clamp(min=0)},
    )  # fmt: skip
    yield asked(
        index_topk, "sees_the_unfinished", "the token at p sees entries s <= p // ratio",
        lambda g: {"positions": _next_entry(g)},
    )  # fmt: skip
    yield asked(
        index_topk, "unweighted_heads", "all heads have the same weight",
        lambda g: {"weights": torch.ones_like(g["weights"])},
    )  # fmt: skip
    yield asked(
        index_topk, "keys_of_the_first", "all sequences read the first one's pages",
        lambda g: {"table": g["table"][:1].expand_as(g["table"]).contiguous()},
    )  # fmt: skip


def _next_entry(given: Given) -> Tensor:
    """Positions from which one entry more is visible, as far as the table reaches."""
    capacity = given["table"].shape[1] * given["pages"].shape[1]
    found: Tensor = (given["positions"] + given["ratio"]).clamp(max=capacity * given["ratio"] - 1)
    return found


Scorer = Callable[[Tensor, Tensor, Tensor], Tensor]
Chooser = Callable[[Tensor, int], Tensor]


def _relu(q: Tensor, keys: Tensor, weights: Tensor) -> Tensor:
    return torch.einsum("ths,th->ts", torch.einsum("thd,sd->ths", q, keys).relu(), weights)


def _without_relu(q: Tensor, keys: Tensor, weights: Tensor) -> Tensor:
    return torch.einsum("ths,th->ts", torch.einsum("thd,sd->ths", q, keys), weights)


def _narrow(q: Tensor, keys: Tensor, weights: Tensor) -> Tensor:
    products = rounded(torch.einsum("thd,sd->ths", q, keys).relu(), torch.bfloat16)
    return rounded(torch.einsum("ths,th->ts", products, weights), torch.bfloat16)


def _lowest_first(scores: Tensor, k: int) -> Tensor:
    return scores.sort(descending=True, stable=True).indices[:, :k]


def _highest_first(scores: Tensor, k: int) -> Tensor:
    """Ties to the highest id."""
    last = scores.shape[1] - 1
    return last - scores.flip(1).sort(descending=True, stable=True).indices[:, :k]


def _one_less(scores: Tensor, k: int) -> Tensor:
    return _lowest_first(scores, k - 1 if k < scores.shape[1] else k)


def _smallest(scores: Tensor, k: int) -> Tensor:
    return scores.masked_fill(scores.isneginf(), torch.inf).sort(stable=True).indices[:, :k]


def _choosing(scorer: Scorer, chooser: Chooser, ascending: bool = True) -> Callable[..., Tensor]:
    """index_topk with its parts exchanged."""

    def run(
        q: Tensor, weights: Tensor, pages: Tensor, table: Tensor, positions: Tensor, cu_seqlens: Tensor, ratio: int, k: int
    ) -> Tensor:  # fmt: skip
        chosen = torch.full((q.shape[0], k), -1, dtype=torch.int32, device=q.device)
        for b, low, high in segments(cu_seqlens):
            ready = (positions[low:high] + 1) // ratio
            entries = torch.arange(int(ready.max()), device=q.device)
            keys = read_pages(pages, table, b, entries).float()
            scores = scorer(q[low:high].float(), keys, weights[low:high].float())
            ids = chooser(scores.masked_fill(entries >= ready[:, None], -torch.inf), k)
            ids = ids.where(ids < ready[:, None], len(entries))
            ids = ids.sort().values if ascending else ids
            chosen[low:high, : ids.shape[1]] = ids.masked_fill(ids == len(entries), -1).int()
        return chosen

    return run


def _written_topk() -> Iterator[Mutant]:
    yield written(index_topk, "without_relu", "negative products count", _choosing(_without_relu, _lowest_first))
    yield written(
        index_topk,
        "scores_in_bfloat16",
        "products and scores are rounded to bfloat16",
        _choosing(_narrow, _lowest_first),
    )
    yield written(index_topk, "reverses_ties", "ties go to the highest id", _choosing(_relu, _highest_first))
    yield written(index_topk, "chooses_one_less", "chooses k - 1 entries", _choosing(_relu, _one_less))
    yield written(index_topk, "chooses_the_worst", "chooses the k smallest scores", _choosing(_relu, _smallest))
    yield written(
        index_topk,
        "in_order_of_score",
        "the best id comes first, not the lowest",
        _choosing(_relu, _lowest_first, False),
    )
