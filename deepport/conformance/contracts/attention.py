"""Contracts of `deepport.ops.attention`: only what a token may see is read, and a choice is judged by what it costs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deepport.conformance.contract import Arguments, Contract, Masks
from deepport.conformance.contracts.choice import Choice, finer, regret, shape_of_rows, ties
from deepport.conformance.contracts.masks import Read, padding, paged, positions_of, ready_entries
from deepport.conformance.result import Gate
from deepport.formats import accumulation
from deepport.ragged import read_pages, segments

_BLOCK = 16
"""Tokens whose products with all keys are held at once."""


def _index_unread(arguments: Arguments) -> Masks:
    pages = paged(arguments, "pages", "table", ready_entries(arguments))
    return padding(arguments, "q", "weights", "positions") | pages


def _index_free(arguments: Arguments) -> dict[int, Tensor]:
    (padded,) = padding(arguments, "positions").values()
    return {0: padded[:, None].expand(-1, arguments["k"])}


def _index_selection(arguments: Arguments, outputs: list[Tensor]) -> tuple[list[Gate], dict[str, Any]]:
    """Shape of the rows first, then regret and ties against the float64 scores."""
    ids, k = outputs[0].long(), arguments["k"]
    choices = [
        _scored(arguments, ids[low:high], b, low, high) for b, low, high in segments(arguments["cu_seqlens"], _BLOCK)
    ]
    capacity = arguments["table"].shape[1] * arguments["pages"].shape[1]
    eps = torch.finfo(accumulation(arguments["q"].dtype)).eps
    return [*shape_of_rows(choices, capacity), regret(choices, k, eps), ties(choices)], dict(arguments)


def _scored(arguments: Arguments, ids: Tensor, b: int, low: int, high: int) -> Choice:
    """The float64 scores of some tokens of a sequence, and the reference's own."""
    q, weights = arguments["q"][low:high], arguments["weights"][low:high]
    ready = (arguments["positions"][low:high] + 1) // arguments["ratio"]
    keys = read_pages(arguments["pages"], arguments["table"], b, torch.arange(int(ready.max())))
    wide, w = accumulation(q.dtype), weights.double()
    rounded = torch.einsum("thd,sd->ths", q.to(wide), keys.to(wide)).relu()
    products = torch.einsum("thd,sd->ths", q.double(), keys.double())
    sizes = torch.einsum("thd,sd->ths", q.double().abs(), keys.double().abs())
    # However a sum of D products is ordered, it errs by D roundings at most: below that, relu gives 0 for certain.
    nothing = (products < -q.shape[-1] * torch.finfo(wide).eps * sizes) | (sizes == 0) | (w == 0)[..., None]
    own = torch.einsum("ths,th->ts", rounded, weights.to(wide)).double()
    return Choice(
        row=low,
        ids=ids,
        scores=torch.einsum("ths,th->ts", products.relu(), w),
        own=own,
        sizes=torch.einsum("ths,th->ts", sizes, w.abs()),
        candidates=torch.arange(len(keys)) < ready[:, None],
        groups=finer(_groups(keys).expand(len(q), -1).masked_fill(nothing.all(1), len(keys)), own),
    )


def _groups(keys: Tensor) -> Tensor:
    """`[S]`: the same number for identical keys."""
    if not keys.numel():
        return torch.zeros(len(keys), dtype=torch.int64)
    found: Tensor = keys.float().unique(dim=0, return_inverse=True)[1]
    return found


def _attention_unread(arguments: Arguments) -> Masks:
    masks = padding(arguments, "q", "positions", "indices")
    masks |= paged(arguments, "window_pages", "window_table", _window_entries(arguments))
    if arguments["compressed_pages"] is not None:
        entries = ready_entries(arguments) if arguments["indices"] is None else _chosen_entries(arguments)
        masks |= paged(arguments, "compressed_pages", "compressed_table", entries)
    return masks


def _window_entries(arguments: Arguments) -> Read:
    for b, positions in positions_of(arguments):
        oldest = max(int(positions.min()) - arguments["window_size"] + 1, 0)
        yield b, torch.arange(oldest, int(positions.max()) + 1)


def _chosen_entries(arguments: Arguments) -> Read:
    for b, low, high in segments(arguments["cu_seqlens"]):
        indices = arguments["indices"][low:high].long()
        yield b, indices[indices >= 0].unique()


CONTRACTS = {
    "index_topk": Contract(unread=_index_unread, free=_index_free, selection=_index_selection),
    "sparse_attention": Contract(unread=_attention_unread),
}
