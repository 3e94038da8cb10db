"""Mutants of KV compression and its carried state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from deepport.conformance.mutants.mutant import Given, Mutant, answered, asked, differentiated
from deepport.op import Operator
from deepport.ops import compress_kv, compress_kv_
from deepport.ragged import segments, sequence_of_row

AnyOperator = Operator[..., Any]


def mutants() -> Iterator[Mutant]:
    for operator in (compress_kv, compress_kv_):
        yield from _both(operator)
    yield asked(compress_kv, "starts_afresh", "what the state carries is ignored", _afresh)
    yield answered(
        compress_kv, "keeps_the_old_state", "the new state is the old one", lambda r, g: [*r[:3], g["state"].clone()]
    )
    yield answered(compress_kv, "forgets_the_unfinished", "the unfinished window is not carried", _forgetful)
    yield answered(compress_kv, "counts_from_zero", "ids count from 0 in every chunk", _from_zero)
    yield asked(
        compress_kv_, "keeps_the_old_state", "the state is not written", lambda g: {"state": g["state"].clone()}
    )
    yield from _gradients()


def _both(operator: AnyOperator) -> Iterator[Mutant]:
    def changing(name: str, fault: str, change: Callable[[Given], Given]) -> Mutant:
        return asked(operator, name, fault, change)

    yield changing("sequence_for_slot", "sequence b has slot b, not slots[b]", _numbered)
    yield changing("bias_by_row", "the bias is added by the token's place in the chunk", _bias_by_row)
    yield changing(
        "ignores_the_bias",
        "the position bias is missing",
        lambda g: {"position_bias": torch.zeros_like(g["position_bias"])},
    )
    yield changing("swaps_halves", "with overlap, the halves of the channels are exchanged", _swapped)
    yield changing("weighs_the_missing_half", "the first window's missing half has gate 0, not -inf", _weighed)
    yield changing("averages", "all tokens of a window weigh the same", lambda g: {"gate": torch.zeros_like(g["gate"])})


def _numbered(given: Given) -> Given:
    return {"slots": torch.arange(len(given["slots"]), dtype=torch.int32)}


def _bias_by_row(given: Given) -> Given:
    cu_seqlens, bias = given["cu_seqlens"].long(), given["position_bias"]
    rows = torch.arange(len(given["gate"]))
    sequence = sequence_of_row(given["cu_seqlens"], len(rows))
    place = (rows - cu_seqlens[sequence.clamp(max=len(cu_seqlens) - 1)]) % given["ratio"]
    return {"gate": given["gate"].float() + bias[place] - bias[given["positions"] % given["ratio"]]}


def _swapped(given: Given) -> Given:
    if not given["overlap"]:
        return {}
    return {n: given[n].roll(given[n].shape[-1] // 2, -1) for n in ("kv", "gate")}


def _weighed(given: Given) -> Given:
    if not given["overlap"]:
        return {}
    state = given["state"].clone()
    state[:, : given["ratio"]] = state[:, : given["ratio"]].nan_to_num(neginf=0.0)
    return {"state": state}


def _afresh(given: Given) -> Given:
    state = torch.zeros_like(given["state"])
    state[..., state.shape[-1] // 2 :] = -torch.inf
    return {"state": state}


def _forgetful(results: list[Tensor], given: Given) -> Any:
    """The state holds no token of the unfinished window."""
    *found, state = results
    ratio, overlap = given["ratio"], given["overlap"]
    for b, _, _ in segments(given["cu_seqlens"]):
        state[given["slots"][b], ratio * overlap :] = _afresh(given)["state"][0, 0]
    return [*found, state]


def _from_zero(results: list[Tensor], given: Given) -> Any:
    entries, ids, cu_entries, state = results
    for low, high in zip(cu_entries[:-1].tolist(), cu_entries[1:].tolist(), strict=True):
        ids[low:high] = torch.arange(high - low)
    return [entries, ids, cu_entries, state]


def _gradients() -> Iterator[Mutant]:
    compress = compress_kv.reference

    def weights_constant(**given: Any) -> Any:
        return compress(**given | {n: given[n].detach() for n in ("gate", "position_bias")})

    def bias_once(**given: Any) -> Any:
        """Only the first window of each sequence gives the bias a gradient."""
        bias, ratio = given["position_bias"], given["ratio"]
        shift = torch.zeros_like(given["gate"], dtype=torch.float32)
        for _, low, high in segments(given["cu_seqlens"]):
            high = min(high, low + ratio)
            shift[low:high] = (bias - bias.detach())[given["positions"][low:high] % ratio]
        return compress(**given | {"gate": given["gate"].float() + shift, "position_bias": bias.detach()})

    yield differentiated(compress_kv, "weights_are_constant", "gate and bias have no gradient", weights_constant)
    yield differentiated(compress_kv, "bias_of_one_window", "later windows give the bias no gradient", bias_once)
