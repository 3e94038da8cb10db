"""Contracts of `deepport.ops.compress`: a state's rows mean what the tokens before have put there, and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from deepport.conformance.contract import Arguments, Contract, Masks
from deepport.conformance.contracts.masks import padding, positions_of, without

_STATE = 3
"""The new state is output 3, of `compress_kv_` as the argument that it writes to."""


def _unread(arguments: Arguments) -> Masks:
    new = [p for _, p in positions_of(arguments)]
    slots = torch.cat([p % arguments["ratio"] for p in new]) if new else torch.empty(0)
    (bias,) = without(slots, arguments["position_bias"])
    assert bias is not None  # position_bias is a tensor
    return padding(arguments, "kv", "gate", "positions") | {"position_bias": bias, "state": _unread_state(arguments)}


def _unread_state(arguments: Arguments) -> Tensor:
    """Of each sequence that goes on: behind the tokens held; and of a previous window that is replaced, the second half of the
    channels, which only its own window's entry is made of."""
    state, ratio, overlap = arguments["state"], arguments["ratio"], arguments["overlap"]
    unread = torch.zeros(state.shape, dtype=torch.bool)
    for b, positions in positions_of(arguments):
        held = int(positions[0]) % ratio
        slot = unread[int(arguments["slots"][b])]
        slot[ratio * overlap + held :] = True
        if overlap and held + len(positions) >= ratio:
            channels = slot[:ratio].unflatten(-1, (2, 2, -1))  # kv and gate, each of two halves
            channels[:, :, 1] = True
    return unread


def _free(arguments: Arguments) -> dict[int, Tensor]:
    """The state behind the tokens it then holds."""
    state, ratio, overlap = arguments["state"], arguments["ratio"], arguments["overlap"]
    free = torch.zeros(state.shape, dtype=torch.bool)
    for b, positions in positions_of(arguments):
        held = int(positions[-1] + 1) % ratio
        free[int(arguments["slots"][b]), ratio * overlap + held :] = True
    return {_STATE: free}


_CONTRACT = Contract(unread=_unread, free=_free)

CONTRACTS = {"compress_kv": _CONTRACT, "compress_kv_": _CONTRACT}
