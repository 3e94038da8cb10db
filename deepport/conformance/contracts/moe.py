"""Contracts of `deepport.ops.moe`: dropped copies and experts without rows are never read, and a choice is judged by its cost."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deepport.conformance.contract import Arguments, Contract, Masks
from deepport.conformance.contracts.choice import Choice, finer, regret, repeated, selected, ties
from deepport.conformance.contracts.masks import rows, without
from deepport.conformance.result import Gate
from deepport.formats import accumulation
from deepport.ops.moe import SCORING

_LEAST = 2.0**-40
"""Below it a score's error counts as if it were this large: a subnormal number's root, 2^-63 at most, is less than its ulp."""


def _given(**masks: Tensor | None) -> Masks:
    return {n: m for n, m in masks.items() if m is not None}


def _route_unread(arguments: Arguments) -> Masks:
    if arguments["table"] is None:
        return {}
    (table,) = without(arguments["input_ids"], arguments["table"])
    return _given(table=table)


def _route_selection(arguments: Arguments, outputs: list[Tensor]) -> tuple[list[Gate], dict[str, Any]]:
    """Weights are then judged for the experts that were chosen."""
    ids, experts = outputs[1].long(), arguments["logits"].shape[1]
    if arguments["table"] is not None:
        return [_hashed(ids, arguments["table"][arguments["input_ids"]])], dict(arguments)
    choice = _scored(arguments, ids)
    eps = torch.finfo(accumulation(arguments["logits"].dtype)).eps
    found = [
        selected("ids in range", [choice], lambda c: (c.ids < 0) | (c.ids >= experts)),
        selected("distinct", [choice], repeated),
        regret([choice], arguments["k"], eps),
        ties([choice]),
    ]
    chosen = {"table": ids.clamp(0, experts - 1), "input_ids": torch.arange(len(ids)), "bias": None}
    return found, {**arguments, **chosen}


def _hashed(ids: Tensor, table: Tensor) -> Gate:
    wrong = (ids != table).any(1)
    detail = f"token {int(wrong.nonzero()[0])} is not routed by the table" if bool(wrong.any()) else ""
    return Gate(gate="G5", metric="ids of the table", status="fail" if detail else "pass", detail=detail)


def _scored(arguments: Arguments, ids: Tensor) -> Choice:
    logits, bias = arguments["logits"], arguments["bias"]
    score = SCORING[arguments["scoring"]]
    shift = torch.zeros(logits.shape[1]) if bias is None else bias
    scores, own = score(logits.double()), score(logits.to(accumulation(logits.dtype)))
    return Choice(
        row=0,
        ids=ids,
        scores=scores + shift.double(),
        own=(own + shift).double(),
        sizes=(scores.abs() + shift.double().abs()).clamp(min=_LEAST),
        candidates=torch.ones_like(scores, dtype=torch.bool),
        groups=finer(logits.float(), shift.float().expand(logits.shape)),
    )


def _dispatch_unread(arguments: Arguments) -> Masks:
    return {"x": rows((arguments["ids"] < 0).all(1), arguments["x"])}


def _dispatch_free(arguments: Arguments) -> dict[int, Tensor]:
    """Rows behind the last expert's, and where the dropped copies are among them."""
    dropped = arguments["ids"] < 0
    behind = torch.arange(dropped.numel()) >= int((~dropped).sum())
    return {0: behind[:, None].expand(-1, arguments["x"].shape[1]), 2: dropped}


def _combine_unread(arguments: Arguments) -> Masks:
    dropped = arguments["ids"] < 0
    (y,) = without(arguments["inverse"][~dropped], arguments["y"])
    return _given(y=y, weights=dropped, inverse=dropped)


def _grouped_unread(arguments: Arguments) -> Masks:
    x, offsets = arguments["x"], arguments["offsets"]
    w, scale = without(offsets.diff().nonzero().flatten(), arguments["w"], arguments["scale"])
    return _given(x=rows(torch.arange(x.shape[0]) >= int(offsets[-1]), x), w=w, scale=scale)


def _experts_unread(arguments: Arguments) -> Masks:
    ids, names = arguments["ids"], ("w13", "w2", "w13_scale", "w2_scale")
    used = ids[ids >= 0].unique()
    matrices = dict(zip(names, without(used, *(arguments[n] for n in names)), strict=True))
    return _given(x=rows((ids < 0).all(1), arguments["x"]), weights=ids < 0, **matrices)


CONTRACTS = {
    # Transcendental functions' last bit depends, on the CPU, on an element's place in a vector: no bits by row.
    "route": Contract(unread=_route_unread, selection=_route_selection),
    "swiglu": Contract(),
    "moe_dispatch": Contract(unread=_dispatch_unread, free=_dispatch_free),
    "moe_combine": Contract(unread=_combine_unread, rows=("weights", "inverse", "ids")),
    "grouped_linear": Contract(unread=_grouped_unread),
    "moe_experts": Contract(unread=_experts_unread),
}
