"""Contracts of `deepport.ops.engram`: rows that are not asked for, and tokens behind a dead one, are never read."""

from __future__ import annotations

import torch
from torch import Tensor

from deepport.conformance.contract import Arguments, Contract, Masks
from deepport.conformance.contracts.masks import padding, without
from deepport.ragged import segments


def _hash_unread(arguments: Arguments) -> Masks:
    """Padding; dead tokens' ids, which stand for pad; and the history that no new token looks back at."""
    dead, history = arguments["dead"], arguments["history"]
    masks = padding(arguments, "ids", "dead")
    unread = torch.ones(history.shape, dtype=torch.bool)
    stops = (history < 0) | (history == (-1 if arguments["boundary"] is None else arguments["boundary"]))
    for b, low, _ in segments(arguments["cu_seqlens"]):
        if dead is None or not bool(dead[low]):
            # The latest is looked at, and what is before it as long as nothing after stops the look-back.
            unread[b] = (stops[b].flip(0).cumsum(0) - stops[b].flip(0).long()).flip(0) > 0
    if dead is not None:
        masks["ids"] = masks["ids"] | dead
    return masks | {"history": unread}


def _hash_free(arguments: Arguments) -> dict[int, Tensor]:
    """Padding's rows."""
    layers, orders, heads = arguments["moduli"].shape
    (padded,) = padding(arguments, "ids").values()
    return {0: padded[None, :, None].expand(layers, -1, orders * heads)}


def _gather_unread(arguments: Arguments) -> Masks:
    names = ("rows", "scale")
    masks = without(arguments["ids"].flatten(), *(arguments[n] for n in names))
    return {n: m for n, m in zip(names, masks, strict=True) if m is not None}


def _conv_unread(arguments: Arguments) -> Masks:
    return padding(arguments, "gated")


CONTRACTS = {
    "engram_hash": Contract(unread=_hash_unread, free=_hash_free),
    "engram_gather": Contract(unread=_gather_unread, rows=("ids",)),
    "engram_gate": Contract(),  # its sigmoids' last bit depends, on the CPU, on their place in a vector
    "engram_conv": Contract(unread=_conv_unread),
    "engram_conv_": Contract(unread=_conv_unread),
}
