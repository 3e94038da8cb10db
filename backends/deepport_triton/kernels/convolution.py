"""Engram's short causal convolution. The functional twin writes to a copy of the state.

One launch: a program for each sequence and stream makes the rows that the state has a part in, and then writes it; others make
the rest from new tokens alone, and never touch the state.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepport.fit import calls, in_place
from deepport.kernel import Kernel, Signature, Support, no
from deepport_triton.kernels.elementwise import ACTIVATIONS
from deepport_triton.kernels.ragged import sequence_of
from deepport_triton.launch import launch

WARPS = 8
"""A program holds a stream's whole row."""


@triton.jit
def _normed(row, weight, at, there, width, eps):
    found = tl.load(row + at, mask=there, other=0.0).to(tl.float32)
    root = tl.rsqrt(tl.sum(found * found, 0) / width + eps)
    return found * root * tl.load(weight + at, mask=there, other=0.0)


@triton.jit
def _mixed_row(
    gated, weight, taps, mine, out, low, place, stream, streams, width, held, eps, dilation,
    taken: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """The row of the token at a place of its sequence."""
    at = tl.arange(0, block)
    there = at < width
    row = ((low + place).to(tl.int64) * streams + stream) * width
    total = tl.zeros((block,), tl.float32)
    for back in tl.static_range(taken):
        earlier = place - back * dilation
        tap = tl.load(taps + (stream * width + at) * taken + (taken - 1 - back), mask=there, other=0.0)
        if earlier >= 0:
            found = _normed(gated + row - back * dilation * streams * width, weight, at, there, width, eps)
        else:
            found = tl.load(mine + (held + earlier) * streams * width + at, mask=there, other=0.0)
        total += tap.to(tl.float32) * found
    own = tl.load(gated + row + at, mask=there, other=0.0).to(tl.float32)
    tl.store(out + row + at, (own + total / (1.0 + tl.exp(-total))).to(out.dtype.element_ty), mask=there)


@triton.jit
def _carry(gated, weight, mine, low, length, stream, streams, width, held, eps, block: tl.constexpr):
    """The last rows of what was held and is new. A row's source lies behind all rows that were written before it."""
    at = tl.arange(0, block)
    there = at < width
    for row in range(held):
        source = row + length - held
        if source < 0:
            found = tl.load(mine + (row + length) * streams * width + at, mask=there, other=0.0)
        else:
            place = gated + ((low + source).to(tl.int64) * streams + stream) * width
            found = _normed(place, weight, at, there, width, eps)
        tl.store(mine + row * streams * width + at, found, mask=there)


@triton.jit
def _conv_stream(
    gated, w_norm, w_conv, state, slots, cu_seqlens, out, sequences, streams, width, states, held, eps, dilation,
    taken: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    program, stream = tl.program_id(0), tl.program_id(1)
    weight = w_norm + stream * width
    if program < sequences:
        low, high = tl.load(cu_seqlens + program), tl.load(cu_seqlens + program + 1)
        slot = tl.load(slots + program).to(tl.int64)
        if (low < high) & (slot >= 0) & (slot < states):
            mine = state + (slot * held * streams + stream) * width
            for place in range(tl.minimum(high - low, held)):
                _mixed_row(
                    gated, weight, w_conv, mine, out, low, place, stream, streams, width, held, eps, dilation, taken, block,
                )  # fmt: skip
            tl.debug_barrier()  # nobody writes before all have read
            _carry(gated, weight, mine, low, high - low, stream, streams, width, held, eps, block)
    else:
        token = program - sequences
        sequence = sequence_of(token, cu_seqlens, sequences, 128)
        low = tl.load(cu_seqlens + sequence)
        if token >= tl.load(cu_seqlens + sequences):
            row, at = out + (token.to(tl.int64) * streams + stream) * width, tl.arange(0, block)
            tl.store(row + at, tl.zeros((block,), tl.float32).to(out.dtype.element_ty), mask=at < width)
        elif token - low >= held:
            _mixed_row(
                gated, weight, w_conv, state, out, low, token - low, stream, streams, width, held, eps, dilation, taken, block,
            )  # fmt: skip


def engram_conv_(
    gated: Tensor, w_norm: Tensor, w_conv: Tensor, state: Tensor, slots: Tensor, cu_seqlens: Tensor,
    dilation: int, eps: float,
) -> Tensor:  # fmt: skip
    gated, w_norm, w_conv, slots, cu_seqlens = (t.contiguous() for t in (gated, w_norm, w_conv, slots, cu_seqlens))
    (tokens, n, width), (states, held, _), sequences = gated.shape, state.shape, slots.shape[0]
    out = torch.empty_like(gated)
    launch(
        _conv_stream, (sequences + tokens, n), gated, w_norm, w_conv, state, slots, cu_seqlens, out,
        sequences, n, width, states, held, eps, dilation,
        taken=w_conv.shape[1], block=triton.next_power_of_2(width), warps=WARPS,
    )  # fmt: skip
    return out


def engram_conv(
    gated: Tensor, w_norm: Tensor, w_conv: Tensor, state: Tensor, slots: Tensor, cu_seqlens: Tensor,
    dilation: int, eps: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    carried = state.clone(memory_format=torch.contiguous_format)
    return engram_conv_(gated, w_norm, w_conv, carried, slots, cu_seqlens, dilation, eps), carried


def _conv(signature: Signature) -> Support:
    if not signature["slots"].shape[0]:
        return no("shape", "there are no sequences")
    return calls.engram_conv(signature, ACTIVATIONS)


def _conv_in_place(signature: Signature) -> Support:
    return in_place(signature, "state") and _conv(signature)


KERNELS = (
    Kernel("engram_conv_", "triton", engram_conv_, _conv_in_place, mutates=("state",)),
    Kernel("engram_conv", "triton", engram_conv, _conv),
)
