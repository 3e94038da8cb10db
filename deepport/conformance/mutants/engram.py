"""Mutants of conditional memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from deepport.conformance.mutants.formats import misread
from deepport.conformance.mutants.mutant import Given, Mutant, answered, asked, differentiated, rounded, written
from deepport.op import Operator
from deepport.ops import engram_conv, engram_conv_, engram_gate, engram_gather, engram_hash
from deepport.ragged import segments, sequence_of_row


def mutants() -> Iterator[Mutant]:
    yield from _hash()
    yield from _gather()
    yield from _gate()
    for operator in (engram_conv, engram_conv_):
        yield from _conv(operator)
    yield from _conv_state()
    yield from _gradients()


Remainder = Callable[[Tensor, Tensor], Tensor]


def _hashing(
    remainder: Remainder = torch.remainder, *, stops: bool = True, bits: torch.dtype = torch.int64
) -> Callable[..., Tensor]:
    """engram_hash with its parts exchanged. `stops`: look-back ends for good; `bits`: of the products."""

    def run(
        ids: Tensor, history: Tensor, cu_seqlens: Tensor, multipliers: Tensor, moduli: Tensor, offsets: Tensor,
        pad: int, boundary: int | None, dead: Tensor | None,
    ) -> Tensor:  # fmt: skip
        orders = multipliers.shape[1] - 1
        ids = ids if dead is None else torch.where(dead, -1, ids)
        sequence = sequence_of_row(cu_seqlens, len(ids)).clamp(max=len(history) - 1)
        row = torch.arange(len(ids))
        place = row - cu_seqlens[sequence]
        stop, found = ids < 0, []
        mixed = (torch.where(stop, pad, ids) * multipliers[:, :1]).to(bits).long()
        for back in range(1, orders + 1):
            before = history[sequence, (place - back).clamp(-orders, -1)]
            earlier = torch.where(place >= back, ids[(row - back).clamp(min=0)], before)
            ends = (earlier < 0) | (earlier == (-1 if boundary is None else boundary))
            stop = (stop | ends) if stops else ends
            mixed = mixed ^ (torch.where(stop, pad, earlier) * multipliers[:, back : back + 1]).to(bits).long()
            found.append(remainder(mixed[..., None], moduli[:, None, back - 1]) + offsets[:, None, back - 1])
        return torch.cat(found, -1)

    return run


def _hash() -> Iterator[Mutant]:
    yield written(engram_hash, "remainder_as_in_c", "the remainder has the dividend's sign", _hashing(torch.fmod))
    yield written(
        engram_hash, "looks_behind_the_dead", "look-back goes on behind a dead or boundary token", _hashing(stops=False)
    )
    yield written(engram_hash, "products_in_int32", "products wrap at 32 bits", _hashing(bits=torch.int32))
    yield asked(
        engram_hash, "reverses_history", "history is read latest first", lambda g: {"history": g["history"].flip(1)}
    )
    yield asked(
        engram_hash, "ignores_history", "each chunk starts a text",
        lambda g: {"history": torch.full_like(g["history"], -1)},
    )  # fmt: skip
    yield asked(
        engram_hash,
        "ignores_offsets",
        "rows count from 0 in every head",
        lambda g: {"offsets": torch.zeros_like(g["offsets"])},
    )
    yield asked(engram_hash, "ignores_the_dead", "dead tokens are hashed", lambda g: {"dead": None})
    yield asked(engram_hash, "ignores_boundaries", "look-back passes boundaries", lambda g: {"boundary": None})
    yield asked(engram_hash, "pads_with_zero", "what is missing is 0, not pad", lambda g: {"pad": 0})
    yield asked(engram_hash, "runs_sequences_together", "the sequence before is looked back at", _together)


def _together(given: Given) -> Given:
    cu_seqlens = given["cu_seqlens"]
    last = len(cu_seqlens) - 1
    joined = torch.where(torch.arange(last + 1) < last, torch.zeros_like(cu_seqlens), cu_seqlens)
    return {"cu_seqlens": joined}


def _gather() -> Iterator[Mutant]:
    yield asked(engram_gather, "next_row", "each id reads the row behind its own", _next_row)
    yield asked(engram_gather, "never_refuses", "ids outside the table are clamped", _clamped)
    yield asked(engram_gather, "wraps_addresses", "byte addresses wrap at 2^31", _wrapped)
    yield asked(
        engram_gather,
        "narrow_ids",
        "ids pass through int16",
        lambda g: {"ids": g["ids"].to(torch.int16).long() % len(g["rows"])},
    )
    yield from misread(
        engram_gather, "rows", "scale", ("ignores_the_scale", "exponent_off_by_one", "swaps_nibbles", "scale_of_the_next_block")
    )  # fmt: skip


def _next_row(given: Given) -> Given:
    return {"ids": (given["ids"] + 1) % len(given["rows"])}


def _clamped(given: Given) -> Given:
    return {"ids": given["ids"].clamp(0, len(given["rows"]) - 1)}


def _wrapped(given: Given) -> Given:
    rows, ids = given["rows"], given["ids"]
    size = max(rows.stride(0), rows.shape[1]) * rows.element_size()
    return {"ids": torch.where((ids < 0) | (ids >= len(rows)), ids, (ids * size).int().long() // size % len(rows))}


def _gate() -> Iterator[Mutant]:
    conventions = {"half": "copysign", "copysign": "half", "positive": "half"}
    yield asked(
        engram_gate,
        "another_zero",
        "a product of 0 follows another convention",
        lambda g: {"zero": conventions[g["zero"]]},
    )
    yield asked(
        engram_gate,
        "unscaled",
        "d is not divided by sqrt(C)",
        lambda g: {"w_h": g["w_h"] * g["hidden"].shape[-1] ** 0.5},
    )
    yield asked(
        engram_gate, "ignores_w_k", "the key's norm has no weight", lambda g: {"w_k": torch.ones_like(g["w_k"])}
    )
    yield asked(engram_gate, "one_weight_for_all", "all streams have the first one's weight", _first_weight)
    yield asked(engram_gate, "clamp_of_the_root", "the clamp holds for the root", lambda g: {"clamp": g["clamp"] ** 2})
    yield answered(engram_gate, "with_the_residual", "the residual is added too", lambda r, g: r[0] + g["hidden"])
    yield written(engram_gate, "narrow_gate", "the gate is rounded before the product", _narrow_gate)


def _first_weight(given: Given) -> Given:
    return {n: given[n][:1].expand_as(given[n]).contiguous() for n in ("w_h", "w_k")}


_gate_reference = engram_gate.reference


def _narrow_gate(
    hidden: Tensor, key: Tensor, value: Tensor, w_h: Tensor, w_k: Tensor, eps: float, clamp: float, zero: str
) -> Tensor:
    ones = torch.ones_like(value, dtype=torch.float32)
    gate = _gate_reference(hidden.float(), key.float(), ones, w_h, w_k, eps, clamp, zero)
    return (rounded(gate, hidden.dtype) * value.float()[:, None]).to(hidden.dtype)


def _conv(operator: Operator[..., Any]) -> Iterator[Mutant]:
    def out(change: Callable[[Tensor, Given], Tensor]) -> Callable[[list[Tensor], Given], Any]:
        return lambda results, given: [change(results[0], given), *results[1:]]

    yield asked(operator, "ignores_dilation", "taps lie side by side", _undilated)
    yield asked(
        operator,
        "reverses_the_kernel",
        "the first tap meets the latest token",
        lambda g: {"w_conv": g["w_conv"].flip(1)},
    )
    yield asked(operator, "sequence_for_slot", "sequence b has slot b, not slots[b]", _numbered)
    yield answered(operator, "without_residual", "the input is not added", out(lambda o, g: o - g["gated"] * _real(g)))
    yield answered(
        operator,
        "pads_with_input",
        "padding rows hold their input, not zeros",
        out(lambda o, g: torch.where(_real(g) > 0, o, g["gated"])),
    )


def _conv_state() -> Iterator[Mutant]:
    def starts_afresh(given: Given) -> Given:
        return {"state": torch.zeros_like(given["state"])}

    def unnormed(results: list[Tensor], given: Given) -> Any:
        return [results[0], _unnormed(given)]

    yield answered(engram_conv, "holds_unnormed_rows", "the state holds the input, not normed rows", unnormed)
    yield answered(
        engram_conv, "keeps_the_old_state", "the new state is the old one", lambda r, g: [r[0], g["state"].clone()]
    )
    yield asked(engram_conv, "starts_afresh", "what the state carries is ignored", starts_afresh)
    yield asked(
        engram_conv_, "keeps_the_old_state", "the state is not written", lambda g: {"state": g["state"].clone()}
    )
    yield asked(
        engram_conv_, "ignores_the_weight", "the norm has no weight", lambda g: {"w_norm": torch.ones_like(g["w_norm"])}
    )


def _undilated(given: Given) -> Given:
    """The same kernel, its taps at the end of one that is as long as the dilated one."""
    w, dilation = given["w_conv"], given["dilation"]
    missing = (w.shape[1] - 1) * (dilation - 1)
    return {"w_conv": torch.cat((w.new_zeros(len(w), missing), w), 1), "dilation": 1}


def _numbered(given: Given) -> Given:
    return {"slots": torch.arange(len(given["slots"]), dtype=torch.int32)}


def _real(given: Given) -> Tensor:
    """1 for a token, 0 for padding, in gated's dtype."""
    gated: Tensor = given["gated"]
    end = int(given["cu_seqlens"][-1])
    return (torch.arange(len(gated)) < end).to(gated.dtype)[:, None, None]


def _unnormed(given: Given) -> Tensor:
    state: Tensor = given["state"].clone()
    for b, low, high in segments(given["cu_seqlens"]):
        slot = given["slots"][b]
        rows = torch.cat((state[slot], given["gated"][low:high].flatten(1).to(state.dtype)))
        state[slot] = rows[len(rows) - state.shape[1] :]
    return state


def _gradients() -> Iterator[Mutant]:
    gather, gate, conv = engram_gather.reference, engram_gate.reference, engram_conv.reference

    def without_duplicates(**given: Any) -> Any:
        """The last of equal ids writes its gradient over the others'."""
        ids = given["ids"].flatten()
        order = torch.arange(len(ids))
        last = torch.zeros(len(given["rows"]), dtype=torch.int64).scatter_reduce(0, ids, order, "amax")
        keep = (last[ids] == order).view(*given["ids"].shape, 1)
        found = gather(**given)
        return torch.where(keep, found, found.detach())

    def constant_norm(**given: Any) -> Any:
        return gate(**given | {n: given[n].detach() for n in ("w_h", "w_k")})

    def without_norm(**given: Any) -> Any:
        return conv(**given | {"w_norm": given["w_norm"].detach()})

    yield differentiated(
        engram_gather, "overwrites_duplicates", "gradients of equal ids are not added", without_duplicates
    )
    yield differentiated(engram_gate, "no_weight_gradient", "the norms' weights have no gradient", constant_norm)
    yield differentiated(engram_conv, "no_weight_gradient", "the norm's weight has no gradient", without_norm)
