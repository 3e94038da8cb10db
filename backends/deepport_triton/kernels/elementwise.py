"""Kernels of one read and one write: norms, rotary embedding, SwiGLU. Float32 inside, rounded once."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepport.fit import calls
from deepport.kernel import Kernel, Signature, Support
from deepport_triton import interpreting
from deepport_triton.launch import launch

ACTIVATIONS = (torch.float32, torch.float16, torch.bfloat16)


def at_once(count: int) -> int:
    """How many of `count` rows a program takes: one; in the interpreter, whose time is that of its programs' steps, up to 64."""
    return min(int(triton.next_power_of_2(max(count, 1))), 64) if interpreting() else 1


@triton.jit
def _rms_norm_rows(x, weight, y, count, width, eps, weighted: tl.constexpr, rows: tl.constexpr, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    channels = tl.arange(0, block)
    there = (row < count)[:, None] & (channels < width)[None, :]
    at = row[:, None] * width + channels[None, :]
    values = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    values = values * tl.rsqrt(tl.sum(values * values, 1) / width + eps)[:, None]
    if weighted:
        values = values * tl.load(weight + channels, mask=channels < width, other=0.0)[None, :]
    tl.store(y + at, values.to(y.dtype.element_ty), mask=there)


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    x = x.contiguous()
    y, width = torch.empty_like(x), x.shape[-1]
    count = x.numel() // max(width, 1)
    rows = at_once(count)
    constants = {"weighted": weight is not None, "rows": rows, "block": triton.next_power_of_2(width)}
    given = x if weight is None else weight.contiguous()
    launch(_rms_norm_rows, (triton.cdiv(count, rows),), x, given, y, count, width, eps, **constants)
    return y


def _rms_norm(signature: Signature) -> Support:
    return calls.rms_norm(signature, ACTIVATIONS)


@triton.jit
def _rotary_heads(x, cos, sin, y, count, heads, width, pairs, sign, rows: tl.constexpr, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    token, first = row // heads, width - 2 * pairs
    channels = tl.arange(0, block)
    there = (row < count)[:, None] & (channels < width)[None, :]
    # A channel's partner in its pair, and which of the two it is; those before the pairs have none, and stay.
    turned = (channels >= first)[None, :]
    odd = ((channels - first) % 2 == 1)[None, :]
    partner = tl.where(odd, channels[None, :] - 1, channels[None, :] + 1)
    angle = token[:, None] * pairs + ((channels - first) // 2)[None, :]
    at = row[:, None] * width + channels[None, :]
    own = tl.load(x + at, mask=there, other=0.0)
    other = tl.load(x + row[:, None] * width + partner, mask=there & turned, other=0.0).to(tl.float32)
    c = tl.load(cos + angle, mask=there & turned, other=1.0)
    s = tl.load(sin + angle, mask=there & turned, other=0.0) * sign
    rotated = own.to(tl.float32) * c + tl.where(odd, other, -other) * s
    tl.store(y + at, tl.where(turned, rotated.to(y.dtype.element_ty), own), mask=there)


def rotary(x: Tensor, cos: Tensor, sin: Tensor, inverse: bool = False) -> Tensor:
    x = x.contiguous()
    y, width = torch.empty_like(x), x.shape[-1]
    heads, pairs = x.shape[1:-1].numel(), cos.shape[1]
    count, sign = x.shape[0] * heads, -1.0 if inverse else 1.0
    given = (x, cos.contiguous(), sin.contiguous(), y, count, heads, width, pairs, sign)
    rows = at_once(count)
    launch(_rotary_heads, (triton.cdiv(count, rows),), *given, rows=rows, block=triton.next_power_of_2(width))
    return y


def _rotary(signature: Signature) -> Support:
    return calls.rotary(signature, ACTIVATIONS)


@triton.jit
def clamped_swiglu(gate, up, limit):
    """NaN stays NaN: a comparison with it is false."""
    gate = tl.where(gate > limit, limit, gate)
    up = tl.where(up > limit, limit, tl.where(up < -limit, -limit, up))
    return gate / (1.0 + tl.exp(-gate)) * up


@triton.jit
def _swiglu_block(gate, up, y, count, limit, block: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    there = at < count
    g = tl.load(gate + at, mask=there, other=0.0).to(tl.float32)
    u = tl.load(up + at, mask=there, other=0.0).to(tl.float32)
    tl.store(y + at, clamped_swiglu(g, u, limit).to(y.dtype.element_ty), mask=there)


def unbounded(limit: float | None) -> float:
    return float("inf") if limit is None else limit


def swiglu(gate: Tensor, up: Tensor, limit: float | None = None) -> Tensor:
    gate, up = gate.contiguous(), up.contiguous()
    y, block = torch.empty_like(gate), 1024
    bound = unbounded(limit)
    launch(_swiglu_block, (triton.cdiv(gate.numel(), block),), gate, up, y, gate.numel(), bound, block=block)
    return y


def _swiglu(signature: Signature) -> Support:
    return calls.swiglu(signature, ACTIVATIONS)


KERNELS = (
    Kernel("rms_norm", "triton", rms_norm, _rms_norm),
    Kernel("rotary", "triton", rotary, _rotary),
    Kernel("swiglu", "triton", swiglu, _swiglu),
)
