"""Routing, and the weighted sum of what experts gave."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepport.fit import calls
from deepport.kernel import Kernel, Signature, Support, no
from deepport_triton.kernels.elementwise import ACTIVATIONS, at_once
from deepport_triton.launch import launch


@triton.jit
def _softplus(x):
    """log(1 + e^x), also where e^x is more than a float, or less than half a unit of 1: log1p by what rounding took of 1 + z."""
    z = tl.exp(-tl.abs(x))
    u = 1.0 + z
    log1p = tl.where(u == 1.0, z, tl.log(u) * (z / tl.where(u == 1.0, 1.0, u - 1.0)))
    return tl.maximum(x, 0.0) + log1p


@triton.jit
def _scores(logits, there, scoring: tl.constexpr):
    if scoring == "softmax":
        logits = tl.where(there, logits, float("-inf"))
        weights = tl.exp(logits - tl.max(logits, 1)[:, None])
        found = weights / tl.sum(weights, 1)[:, None]
    elif scoring == "sigmoid":
        found = 1.0 / (1.0 + tl.exp(-logits))
    else:
        found = tl.sqrt(_softplus(logits))
    return found


@triton.jit
def _rank(x):
    """Integers in the order of floats: NaN, of either sign, is the largest, and zeros are one."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    bits = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    bits = tl.where(x == 0.0, 0, bits)
    return tl.where(x != x, 0x7FFFFFFF, bits)


@triton.jit
def _route_token(
    logits, bias, table, input_ids, weights, ids, tokens, experts, scale,
    k: tl.constexpr, scoring: tl.constexpr, biased: tl.constexpr, hashed: tl.constexpr,
    rows: tl.constexpr, block: tl.constexpr, chosen: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    expert, slot = tl.arange(0, block)[None, :], tl.arange(0, chosen)[None, :]
    present, there = (token < tokens)[:, None], expert < experts
    given = tl.load(logits + token[:, None] * experts + expert, mask=present & there, other=0.0)
    scores = _scores(given.to(tl.float32), there, scoring)
    if hashed:
        row = tl.load(input_ids + token, mask=token < tokens, other=0)
        found = tl.load(table + row[:, None] * k + slot, mask=present & (slot < k), other=0).to(tl.int32)
    else:
        ranked = scores + tl.load(bias + expert, mask=there, other=0.0) if biased else scores
        left = tl.where(there, _rank(ranked), -2147483648)
        found = tl.zeros((rows, chosen), tl.int32)
        for j in tl.static_range(k):
            best = tl.min(tl.where(left == tl.max(left, 1)[:, None], expert, block), 1)[:, None]  # ties: the lowest
            found = tl.where(slot == j, best, found)
            left = tl.where(expert == best, -2147483648, left)
    mine = (found[:, :, None] == expert[:, None, :]) & (slot < k)[:, :, None]
    picked = tl.sum(tl.where(mine, scores[:, None, :], 0.0), 2)
    share = picked / (tl.sum(picked, 1) + 1e-20)[:, None] * scale
    tl.store(weights + token[:, None] * k + slot, share, mask=present & (slot < k))
    tl.store(ids + token[:, None] * k + slot, found, mask=present & (slot < k))


def route(
    logits: Tensor,
    bias: Tensor | None,
    k: int,
    scoring: str,
    scale: float,
    table: Tensor | None = None,
    input_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    tokens, experts = logits.shape
    logits = logits.contiguous()
    weights = logits.new_empty((tokens, k), dtype=torch.float32)
    ids = logits.new_empty((tokens, k), dtype=torch.int32)
    given = [logits if t is None else t.contiguous() for t in (bias, table, input_ids)]
    how: dict[str, Any] = {"k": k, "scoring": scoring, "biased": bias is not None, "hashed": table is not None}
    rows = at_once(tokens)
    blocks = {"rows": rows, "block": triton.next_power_of_2(experts), "chosen": triton.next_power_of_2(k)}
    launch(
        _route_token,
        (triton.cdiv(tokens, rows),),
        logits,
        *given,
        weights,
        ids,
        tokens,
        experts,
        scale,
        **how,
        **blocks,
    )
    return weights, ids


def _route(signature: Signature) -> Support:
    given = {n for n in ("bias", "table", "input_ids") if signature[n] is not None}
    if signature["scoring"] not in ("sqrtsoftplus", "sigmoid", "softmax") or given not in (
        set(), {"bias"}, {"table", "input_ids"}
    ):  # fmt: skip
        return no("attribute", "the reference refuses such a call")
    if not 0 < signature["k"] <= signature["logits"].shape[-1]:
        return no("attribute", f"k is {signature['k']}, of {signature['logits'].shape[-1]} experts")
    return calls.route(signature, ACTIVATIONS)


@triton.jit
def _combine_block(y, weights, inverse, ids, out, count, width, k: tl.constexpr, block: tl.constexpr):
    token, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * block + tl.arange(0, block)
    total = tl.zeros((block,), tl.float32)
    for j in range(k):
        copy = token * k + j
        if tl.load(ids + copy) >= 0:
            row = tl.load(inverse + copy).to(tl.int64)
            known = (row >= 0) & (row < count) & (at < width)
            values = tl.load(y + row * width + at, mask=known, other=0.0).to(tl.float32)
            total += tl.load(weights + copy) * values
    tl.store(out + token * width + at, total.to(out.dtype.element_ty), mask=at < width)


def moe_combine(y: Tensor, weights: Tensor, inverse: Tensor, ids: Tensor) -> Tensor:
    tokens, k, width = *ids.shape, y.shape[1]
    given = [t.contiguous() for t in (y, weights, inverse, ids)]
    out, block = y.new_empty((tokens, width)), min(int(triton.next_power_of_2(width)), 1024)
    launch(_combine_block, (tokens, triton.cdiv(width, block)), *given, out, y.shape[0], width, k=k, block=block)
    return out


def _combine(signature: Signature) -> Support:
    return calls.moe_combine(signature, ACTIVATIONS)


KERNELS = (
    Kernel("route", "triton", route, _route),
    Kernel("moe_combine", "triton", moe_combine, _combine),
)
