"""KV compression (DeepSeek-V4, section 2.3.1). The functional twin writes to a copy of the state.

One launch: a program for each sequence makes the entries that the state has a part in, and then writes it; others make the rest
from new tokens alone, and never touch the state.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepport.fit import calls, in_place
from deepport.kernel import Kernel, Signature, Support, no
from deepport_triton.kernels.elementwise import ACTIVATIONS
from deepport_triton.launch import launch

HELD = 4096
"""Numbers of a window that a program holds."""


@triton.jit
def _complete(sequence, there, positions, cu_seqlens, ratio):
    """Of sequences: their first row, how many of their first window's tokens the state holds, and windows now complete."""
    low = tl.load(cu_seqlens + sequence, mask=there, other=0)
    high = tl.load(cu_seqlens + sequence + 1, mask=there, other=0)
    held = (tl.load(positions + low, mask=there & (low < high), other=0) % ratio).to(tl.int32)
    return low, high, held, tl.where(low < high, (held + high - low) // ratio, 0)


@triton.jit
def _window(kv, gate, bias, mine, window, channel, inside, low, held, base, channels, ratio, rows: tl.constexpr):
    """kv and biased gate `[rows, block]` of a window; -1 is the one before those of the state and the new tokens."""
    slot = tl.arange(0, rows)
    new = window * ratio + slot - held
    there = (slot < ratio)[:, None] & inside[None, :]
    fresh = there & ((window >= 0) & (new >= 0))[:, None]
    row = (low + tl.maximum(new, 0)).to(tl.int64) * channels
    own = tl.load(kv + row[:, None] + channel[None, :], mask=fresh, other=0.0).to(tl.float32)
    weight = tl.load(gate + row[:, None] + channel[None, :], mask=fresh, other=0.0).to(tl.float32)
    weight += tl.load(bias + slot[:, None] * channels + channel[None, :], mask=fresh, other=0.0)
    carried = there & ((window < 0) | (new < 0))[:, None]
    places = mine + (tl.where(window < 0, 0, base) + slot)[:, None] * 2 * channels + channel[None, :]
    own = tl.where(fresh, own, tl.load(places, mask=carried, other=0.0))
    weight = tl.where(fresh, weight, tl.load(places + channels, mask=carried, other=float("-inf")))
    return own, weight


@triton.jit
def _entry(
    entries, at, kv, gate, bias, mine, window, part, width, low, held, base, channels, ratio,
    overlap: tl.constexpr, rows: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """A window's entry, a part of its channels."""
    channel = part * block + tl.arange(0, block)
    inside = channel < width
    now = channel + width if overlap else channel
    own, weight = _window(kv, gate, bias, mine, window, now, inside, low, held, base, channels, ratio, rows)
    peak = tl.max(weight, 0)
    if overlap:
        before, earlier = _window(
            kv, gate, bias, mine, window - 1, channel, inside, low, held, base, channels, ratio, rows
        )
        peak = tl.maximum(peak, tl.max(earlier, 0))
    shares = tl.exp(weight - peak[None, :])
    total, sums = tl.sum(shares, 0), tl.sum(shares * own, 0)
    if overlap:
        shares = tl.exp(earlier - peak[None, :])
        total, sums = total + tl.sum(shares, 0), sums + tl.sum(shares * before, 0)
    tl.store(entries + at.to(tl.int64) * width + channel, (sums / total).to(entries.dtype.element_ty), mask=inside)


@triton.jit
def _carry(
    mine, kv, gate, bias, complete, length, part, width, low, held, base, channels, ratio,
    overlap: tl.constexpr, rows: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """The state after these tokens: the last complete window (with overlap), then the unfinished one's new tokens."""
    slot = tl.arange(0, rows)
    for half in tl.static_range(2 if overlap else 1):
        channel = half * width + part * block + tl.arange(0, block)
        inside = part * block + tl.arange(0, block) < width
        there = (slot < ratio)[:, None] & inside[None, :]
        if overlap:
            own, weight = _window(
                kv, gate, bias, mine, complete - 1, channel, inside, low, held, base, channels, ratio, rows
            )
        new = complete * ratio + slot - held
        fresh = there & ((new >= 0) & (new < length))[:, None]
        row = (low + tl.maximum(new, 0)).to(tl.int64) * channels
        rest = tl.load(kv + row[:, None] + channel[None, :], mask=fresh, other=0.0).to(tl.float32)
        open = tl.load(gate + row[:, None] + channel[None, :], mask=fresh, other=0.0).to(tl.float32)
        open += tl.load(bias + slot[:, None] * channels + channel[None, :], mask=fresh, other=0.0)
        tl.debug_barrier()  # nobody writes before all have read
        if overlap:
            places = mine + slot[:, None] * 2 * channels + channel[None, :]
            tl.store(places, own, mask=there & (complete > 0))
            tl.store(places + channels, weight, mask=there & (complete > 0))
        places = mine + (base + slot)[:, None] * 2 * channels + channel[None, :]
        tl.store(places, rest, mask=fresh)
        tl.store(places + channels, open, mask=fresh)
        tl.debug_barrier()


@triton.jit
def _at(values, all, one):
    """One of some numbers; 0 where there is none."""
    return tl.sum(tl.where(all == one, values, 0), 0)


@triton.jit
def _compress_window(
    kv, gate, bias, state, slots, positions, cu_seqlens, entries, ids, cu_entries,
    sequences, width, channels, ratio, states,
    overlap: tl.constexpr, rows: tl.constexpr, block: tl.constexpr, all_sequences: tl.constexpr,
):  # fmt: skip
    program, part = tl.program_id(0), tl.program_id(1)
    all = tl.arange(0, all_sequences)
    lows, highs, helds, completes = _complete(all, all < sequences, positions, cu_seqlens, ratio)
    ends = tl.cumsum(completes, 0)
    base = ratio if overlap else 0
    stateful: tl.constexpr = 2 if overlap else 1  # windows that the state has a part in
    # The programs of sequences come first, then those of entries.
    at = program - sequences
    sequence = program if at < 0 else tl.sum((ends <= at).to(tl.int32), 0)
    low, held, complete = _at(lows, all, sequence), _at(helds, all, sequence), _at(completes, all, sequence)
    before = _at(ends, all, sequence) - complete
    if at < 0:
        length = _at(highs, all, sequence) - low
        slot = tl.load(slots + sequence).to(tl.int64)
        if part == 0:
            tl.store(cu_entries + sequence, before)
            if sequence == sequences - 1:
                tl.store(cu_entries + sequences, before + complete)
        if (length > 0) & (slot >= 0) & (slot < states):
            mine = state + slot * (base + ratio) * 2 * channels
            for window in range(tl.minimum(complete, stateful)):
                _entry(
                    entries, before + window, kv, gate, bias, mine, window, part, width, low, held, base, channels, ratio,
                    overlap, rows, block,
                )  # fmt: skip
            _carry(
                mine, kv, gate, bias, complete, length, part, width, low, held, base, channels, ratio,
                overlap, rows, block,
            )  # fmt: skip
    else:
        found, window = sequence < all_sequences, at - before
        position = tl.load(positions + low, mask=found, other=0)
        if part == 0:
            tl.store(ids + at, tl.where(found, position // ratio + window, -1))
        if not found:
            channel = part * block + tl.arange(0, block)
            nothing = tl.zeros((block,), tl.float32).to(entries.dtype.element_ty)
            tl.store(entries + at.to(tl.int64) * width + channel, nothing, mask=channel < width)
        elif window >= stateful:
            _entry(
                entries, at, kv, gate, bias, state, window, part, width, low, held, base, channels, ratio,
                overlap, rows, block,
            )  # fmt: skip


def compress_kv_(
    kv: Tensor, gate: Tensor, position_bias: Tensor, state: Tensor, slots: Tensor, positions: Tensor, cu_seqlens: Tensor,
    ratio: int, overlap: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    (tokens, channels), sequences = kv.shape, slots.shape[0]
    most, width = tokens // ratio + sequences, channels // (1 + overlap)
    entries = kv.new_empty((most, width))
    ids = slots.new_empty((most,), dtype=torch.int64)
    cu_entries = slots.new_empty((sequences + 1,), dtype=torch.int32)
    given = [t.contiguous() for t in (kv, gate, position_bias)]
    ragged = [t.contiguous() for t in (slots, positions, cu_seqlens)]
    rows = int(triton.next_power_of_2(ratio))
    block = min(int(triton.next_power_of_2(width)), max(HELD // rows // 4, 16))
    launch(
        _compress_window, (sequences + most, triton.cdiv(width, block)), *given, state, *ragged, entries, ids, cu_entries,
        sequences, width, channels, ratio, state.shape[0],
        overlap=overlap, rows=rows, block=block, all_sequences=triton.next_power_of_2(sequences),
    )  # fmt: skip
    return entries, ids, cu_entries


def compress_kv(
    kv: Tensor, gate: Tensor, position_bias: Tensor, state: Tensor, slots: Tensor, positions: Tensor, cu_seqlens: Tensor,
    ratio: int, overlap: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    carried = state.clone(memory_format=torch.contiguous_format)
    found = compress_kv_(kv, gate, position_bias, carried, slots, positions, cu_seqlens, ratio, overlap)
    return *found, carried


def _compress(signature: Signature) -> Support:
    if not signature["slots"].shape[0]:
        return no("shape", "there are no sequences")
    return calls.compress_kv(signature, ACTIVATIONS)


def _compress_in_place(signature: Signature) -> Support:
    return in_place(signature, "state") and _compress(signature)


KERNELS = (
    Kernel("compress_kv_", "triton", compress_kv_, _compress_in_place, mutates=("state",)),
    Kernel("compress_kv", "triton", compress_kv, _compress),
)
