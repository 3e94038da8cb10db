"""KV compression: windows of tokens become one cache entry each."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor

from deepport.formats import accumulation
from deepport.op import operator
from deepport.ops.cache import ragged
from deepport.ragged import segments
from deepport.spec import FLOATS, ROUNDED_ONCE, Case, Cost, Tolerance, case, nbytes, normal

_TOLERANCE = Tolerance(
    "a float32 softmax over at most 2*ratio slots and a sum of as many products, rounded once", rms=ROUNDED_ONCE
)


def empty_state(slots: int, ratio: int, overlap: bool, channels: int, dtype: torch.dtype, device: Any) -> Tensor:
    """The state of sequences that have no tokens yet: kv 0 and gate -inf, `[slots, (2 or 1) * ratio, 2 * channels]`."""
    state = torch.zeros(slots, (1 + overlap) * ratio, 2 * channels, dtype=accumulation(dtype), device=device)
    state[..., channels:] = -torch.inf
    return state


def compress_arguments(
    g: Generator,
    lengths: tuple[int, ...],
    first: tuple[int, ...],
    ratio: int,
    overlap: bool,
    dtype: torch.dtype,
    width: int = 16,
) -> dict[str, Any]:
    positions, cu_seqlens = ragged(lengths, first, padding=1)
    channels = width * (1 + overlap)
    state = empty_state(len(lengths) + 1, ratio, overlap, channels, dtype, "cpu")
    slots = torch.randperm(len(lengths) + 1, generator=g)[: len(lengths)].int()
    for slot, f in zip(slots.tolist(), first, strict=True):
        carried, held = f % ratio, f >= ratio and overlap
        rows = [*range(ratio if held else 0), *range(ratio * overlap, ratio * overlap + carried)]
        state[slot, rows] = normal(g, len(rows), 2 * channels)
    return {
        "kv": normal(g, positions.shape[0], channels, dtype=dtype),
        "gate": normal(g, positions.shape[0], channels, dtype=dtype),
        "position_bias": normal(g, ratio, channels),
        "state": state,
        "slots": slots,
        "positions": positions,
        "cu_seqlens": cu_seqlens,
        "ratio": ratio,
        "overlap": overlap,
    }


def _cases() -> Iterator[Case]:
    for lengths, first in (
        ((1,), (0,)),
        ((1, 1, 1), (3, 6, 11)),
        ((9, 0, 21, 3), (0, 5, 2, 4)),
        ((8,), (8,)),
        ((0,), (2,)),
    ):
        for overlap in (False, True):
            for dtype in FLOATS:
                yield case(compress_arguments, lengths=lengths, first=first, ratio=4, overlap=overlap, dtype=dtype)
    yield case(compress_arguments, lengths=(300, 5), first=(0, 127), ratio=128, overlap=False, dtype=torch.float32)


def _cost(
    kv: Tensor, gate: Tensor, position_bias: Tensor, state: Tensor, slots: Tensor, positions: Tensor, cu_seqlens: Tensor,
    ratio: int, overlap: bool,
) -> Cost:  # fmt: skip
    entries = (kv.shape[0] // ratio + slots.shape[0]) * kv.shape[1] // (1 + overlap)
    touched = 2 * slots.shape[0] * nbytes(state) / max(state.shape[0], 1)
    return Cost(
        5.0 * kv.numel() * (1 + overlap), nbytes(kv, gate, position_bias) + touched + entries * kv.element_size()
    )


def _shapes(kv: Tensor, slots: Tensor, ratio: int, overlap: bool) -> tuple[Tensor, Tensor, Tensor]:
    entries = kv.shape[0] // ratio + slots.shape[0]
    return (
        kv.new_empty((entries, kv.shape[1] // (1 + overlap))),
        slots.new_empty((entries,), dtype=torch.int64),
        slots.new_empty((slots.shape[0] + 1,), dtype=torch.int32),
    )


def _compress_sequence(carried: Tensor, kv_gate: Tensor, ratio: int, overlap: bool) -> Tensor:
    """Entries of all windows in `kv_gate [W, ratio, 2, C]` (gate with its bias), given the `carried [ratio, 2, C]` before."""
    if overlap:
        half = kv_gate.shape[-1] // 2
        earlier = torch.cat((carried[None], kv_gate))[: kv_gate.shape[0], ..., :half]
        kv_gate = torch.cat((earlier, kv_gate[..., half:]), 1)
    kv, gate = kv_gate.unbind(2)
    return (gate.softmax(1) * kv).sum(1)


@operator(
    cost=_cost,
    cases=_cases,
    tolerance=_TOLERANCE,
    fake=lambda kv, gate, position_bias, state, slots, positions, cu_seqlens, ratio, overlap: (
        *_shapes(kv, slots, ratio, overlap),
        state.new_empty(state.shape),
    ),
    differentiable=("kv", "gate", "position_bias"),
)
def compress_kv(
    kv: Tensor, gate: Tensor, position_bias: Tensor, state: Tensor, slots: Tensor, positions: Tensor, cu_seqlens: Tensor,
    ratio: int, overlap: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Compress every window of `ratio` tokens that is now complete, per channel: `sum_i softmax_i(gate_i + bias_i) kv_i`.

    With `overlap` (CSA) the channels are two halves: the sum runs over the first half of the previous window's tokens and
    the second half of this window's, 2*ratio slots; the first window's missing half has weight 0. Softmax in float32.
    DeepSeek-V4, sections 2.3.1 (equations 9-12) and 2.3.2 (20-23).

    kv, gate [T, C] with C = (2 if overlap else 1) * D; position_bias [ratio, C], added by the token's slot in its own window;
    state [S, (2 or 1) * ratio, 2*C] float32, of which `slots [B] int32` are these sequences' rows: kv and (biased) gate of
    the tokens of the unfinished window, after those of the previous window with overlap. What lies behind the last of these
    tokens is never read, and left open. positions, cu_seqlens as in `deepport.ragged`, going on where the state stops.

    Returns (entries [N, D] in kv's dtype with N = T//ratio + B, all sequences' one after another, zeros at the end;
    ids [N] int64, each entry's place in its own sequence, -1 at the end; cu_entries [B+1] int32; the new state, without a
    gradient). The caller normalises entries and rotates them at position `ids * ratio`.
    """
    entries, ids, cu_entries = (torch.zeros_like(t) for t in _shapes(kv, slots, ratio, overlap))
    ids.fill_(-1)
    wide = accumulation(kv.dtype)
    biased = gate.to(wide) + position_bias.to(wide)[positions % ratio]
    tokens = torch.stack((kv.to(wide), biased), 1)  # [T, 2, C]
    found: list[Tensor] = []
    new_state = state.clone()
    for b, low, high in segments(cu_seqlens):
        rows = state[slots[b]].unflatten(-1, (2, -1)).to(wide)
        buffered = int(positions[low]) % ratio
        window = torch.cat((rows[len(rows) - ratio :][:buffered], tokens[low:high]))
        complete = len(window) // ratio
        windows = window[: complete * ratio].unflatten(0, (complete, ratio))
        found.append(_compress_sequence(rows[:ratio], windows, ratio, overlap))
        first = int(positions[low]) // ratio
        start = sum(len(f) for f in found[:-1])
        ids[start : start + complete] = torch.arange(first, first + complete, device=ids.device)
        cu_entries[b + 1] = complete
        new_state[slots[b]] = _carry(rows, windows, window[complete * ratio :], ratio, overlap).detach().to(state.dtype)
    compressed = torch.cat(found) if found else entries[:0]
    padding = entries[len(compressed) :]
    return (
        torch.cat((compressed.to(kv.dtype), padding)),
        ids,
        cu_entries.cumsum(0, dtype=torch.int32),
        new_state,
    )


def _carry(rows: Tensor, windows: Tensor, rest: Tensor, ratio: int, overlap: bool) -> Tensor:
    """The state after these windows: the last complete one (with overlap), then the unfinished one."""
    unfinished = torch.zeros_like(rows[:ratio])
    unfinished[:, 1] = -torch.inf
    unfinished = torch.cat((rest, unfinished[len(rest) :]))
    if overlap:
        last = windows[-1] if len(windows) else rows[:ratio]
        unfinished = torch.cat((last, unfinished))
    return unfinished.flatten(1)


@operator(
    cost=_cost,
    cases=_cases,
    tolerance=_TOLERANCE,
    fake=lambda kv, gate, position_bias, state, slots, positions, cu_seqlens, ratio, overlap: _shapes(
        kv, slots, ratio, overlap
    ),
    mutates=("state",),
)
def compress_kv_(
    kv: Tensor, gate: Tensor, position_bias: Tensor, state: Tensor, slots: Tensor, positions: Tensor, cu_seqlens: Tensor,
    ratio: int, overlap: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`compress_kv`, writing the new state over the old."""
    *result, new_state = compress_kv.reference(
        kv, gate, position_bias, state, slots, positions, cu_seqlens, ratio, overlap
    )
    state.copy_(new_state)
    return result[0], result[1], result[2]
