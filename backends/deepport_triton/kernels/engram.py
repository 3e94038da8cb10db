"""Engram (arXiv 2601.07372): which rows of a memory n-grams ask for, and how far each stream lets them in."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepport.fit import calls
from deepport.kernel import Kernel, Signature, Support, no
from deepport_triton.kernels.elementwise import ACTIVATIONS
from deepport_triton.kernels.ragged import sequence_of
from deepport_triton.launch import launch


@triton.jit
def _token_at(ids, dead, at, mask, mortal: tl.constexpr):
    """A token's id; -1 for a dead one, and where the mask is not."""
    found = tl.load(ids + at, mask=mask, other=-1)
    if mortal:
        found = tl.where(tl.load(dead + at, mask=mask, other=0) != 0, -1, found)
    return found


@triton.jit
def _hash_token(
    ids, history, cu_seqlens, multipliers, moduli, offsets, dead, rows, tokens, sequences, layers, heads, pad, boundary,
    orders: tl.constexpr, mortal: tl.constexpr, all_layers: tl.constexpr, all_heads: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0)
    sequence = sequence_of(token, cu_seqlens, sequences, block)
    place = token - tl.load(cu_seqlens + sequence)
    layer, head = tl.arange(0, all_layers), tl.arange(0, all_heads)
    there = (layer < layers)[:, None] & (head < heads)[None, :]
    own = _token_at(ids, dead, token, token >= 0, mortal)
    stop = own < 0
    by = tl.load(multipliers + layer * (orders + 1), mask=layer < layers, other=0)
    mixed = tl.where(stop, pad, own).to(tl.int64) * by
    for back in tl.static_range(1, orders + 1):
        inside = place >= back
        before = orders + tl.minimum(tl.maximum(place - back, -orders), -1)
        earlier = _token_at(ids, dead, token - back, inside, mortal)
        earlier = tl.where(inside, earlier, tl.load(history + sequence * orders + before))
        stop = stop | (earlier < 0) | (earlier == boundary)
        by = tl.load(multipliers + layer * (orders + 1) + back, mask=layer < layers, other=0)
        mixed = mixed ^ (tl.where(stop, pad, earlier).to(tl.int64) * by)
        table = (layer[:, None] * orders + (back - 1)) * heads + head[None, :]
        modulus = tl.load(moduli + table, mask=there, other=1)
        row = mixed[:, None] % modulus  # with the sign of what is divided
        row = tl.where((row != 0) & ((row < 0) != (modulus < 0)), row + modulus, row)
        to = rows + (layer[:, None].to(tl.int64) * tokens + token) * orders * heads + (back - 1) * heads + head[None, :]
        tl.store(to, row + tl.load(offsets + table, mask=there, other=0), mask=there)


def engram_hash(
    ids: Tensor, history: Tensor, cu_seqlens: Tensor, multipliers: Tensor, moduli: Tensor, offsets: Tensor,
    pad: int, boundary: int | None = None, dead: Tensor | None = None,
) -> Tensor:  # fmt: skip
    layers, orders, heads = moduli.shape
    given = [t.contiguous() for t in (ids, history, cu_seqlens, multipliers, moduli, offsets)]
    mortal = dead.contiguous().view(torch.uint8) if dead is not None else ids
    rows = ids.new_empty((layers, ids.shape[0], orders * heads))
    blocks = {"all_layers": triton.next_power_of_2(layers), "all_heads": triton.next_power_of_2(heads), "block": 128}
    launch(
        _hash_token, (ids.shape[0],), *given, mortal, rows, ids.shape[0], history.shape[0], layers, heads, pad,
        -1 if boundary is None else boundary, orders=orders, mortal=dead is not None, **blocks,
    )  # fmt: skip
    return rows


def _hash(signature: Signature) -> Support:
    if not signature["history"].shape[0]:
        return no("shape", "there are no sequences")
    return calls.engram_hash(signature)


@triton.jit
def _gate_stream(
    hidden, key, value, w_h, w_k, gated, n, width, eps, clamp, root, zero: tl.constexpr, block: tl.constexpr
):
    program = tl.program_id(0).to(tl.int64)
    token, stream = program // n, program % n
    h, k = hidden + program * width, key + program * width
    squares_h, squares_k, product = tl.zeros((1,), tl.float32), tl.zeros((1,), tl.float32), tl.zeros((1,), tl.float32)
    for begin in range(0, width, block):
        at = begin + tl.arange(0, block)
        there = at < width
        of_h = tl.load(h + at, mask=there, other=0.0).to(tl.float32)
        of_k = tl.load(k + at, mask=there, other=0.0).to(tl.float32)
        by_h = tl.load(w_h + stream * width + at, mask=there, other=0.0)
        by_k = tl.load(w_k + stream * width + at, mask=there, other=0.0)
        squares_h += tl.sum(of_h * of_h, 0)
        squares_k += tl.sum(of_k * of_k, 0)
        product += tl.sum(of_h * by_h * of_k * by_k, 0)
    d = product * tl.rsqrt(squares_h / width + eps) * tl.rsqrt(squares_k / width + eps) / root
    size = tl.sqrt(tl.maximum(tl.abs(d), clamp))
    if zero == "half":
        size = tl.where(d == 0.0, 0.0, size)
        negative = d < 0.0
    elif zero == "copysign":
        negative = d.to(tl.int32, bitcast=True) < 0
    else:
        negative = d < 0.0
    gate = 1.0 / (1.0 + tl.exp(tl.where(negative, size, -size)))
    for begin in range(0, width, block):
        at = begin + tl.arange(0, block)
        found = tl.load(value + token * width + at, mask=at < width, other=0.0).to(tl.float32) * gate
        tl.store(gated + program * width + at, found.to(gated.dtype.element_ty), mask=at < width)


def engram_gate(
    hidden: Tensor, key: Tensor, value: Tensor, w_h: Tensor, w_k: Tensor, eps: float, clamp: float, zero: str
) -> Tensor:
    tokens, n, width = hidden.shape
    given = [t.contiguous() for t in (hidden, key, value, w_h, w_k)]
    gated, block = torch.empty_like(given[0]), min(int(triton.next_power_of_2(width)), 1024)
    launch(_gate_stream, (tokens * n,), *given, gated, n, width, eps, clamp, width**0.5, zero=zero, block=block)
    return gated


def _gate(signature: Signature) -> Support:
    if signature["zero"] not in ("half", "copysign", "positive"):
        return no("attribute", f"no convention for zero is called {signature['zero']!r}")
    return calls.engram_gate(signature, ACTIVATIONS)


KERNELS = (
    Kernel("engram_hash", "triton", engram_hash, _hash),
    Kernel("engram_gate", "triton", engram_gate, _gate),
)
