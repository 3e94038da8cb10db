"""Fused normalisation, rotary embedding, SwiGLU, weight-only products. Meaning: the vendor's pages named at each.

Arithmetic is float32 inside, rounded once: what the pages' formulas say, and no more than that is known of the chip's.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from cann.dispatch import aclnn
from cann.table import taken


def _check_rms_norm(x: Tensor, gamma: Tensor, epsilon: float, *_: Tensor) -> None:
    taken("npu_rms_norm", input=x, gamma=gamma, epsilon=epsilon)


@aclnn("aclnnRmsNorm", "T T d | T T", check=_check_rms_norm)
def rms_norm(x: Tensor, gamma: Tensor, epsilon: float, y: Tensor, rstd: Tensor) -> None:
    """ops-nn, aclnnRmsNorm: `x gamma / sqrt(mean(x^2) + epsilon)`, and the reciprocal root."""
    wide = x.float()
    root = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    y.copy_(wide * root * gamma.float())
    rstd.copy_(root.view(rstd.shape))


def _check_rotary(x: Tensor, cos: Tensor, sin: Tensor, mode: int, *_: Tensor | None) -> None:
    taken("npu_rotary_mul", input=x, r1=cos, r2=sin, rotary_mode=("half", "interleave")[mode])


@aclnn("aclnnRotaryPositionEmbeddingV2", "T T T l T? | T", check=_check_rotary)
def rotary_v2(x: Tensor, cos: Tensor, sin: Tensor, mode: int, rotate: Tensor | None, out: Tensor) -> None:
    rotary(x, cos, sin, mode, out)


@aclnn("aclnnRotaryPositionEmbedding", "T T T l | T", check=_check_rotary)
def rotary(x: Tensor, cos: Tensor, sin: Tensor, mode: int, out: Tensor) -> None:
    """ops-transformer, aclnnRotaryPositionEmbedding: `x cos + turned(x) sin`, pairs apart by half (0) or side by side (1)."""
    wide = x.float()
    if mode:
        turned = torch.stack((-wide[..., 1::2], wide[..., ::2]), -1).flatten(-2)
    else:
        low, high = wide.chunk(2, -1)
        turned = torch.cat((-high, low), -1)
    out.copy_(wide * cos.float() + turned * sin.float())


def _check_clipped(
    x: Tensor, group: Tensor | None, dim: int, alpha: float, limit: float, bias: float, interleaved: bool, *_: Tensor
) -> None:
    options = {"alpha": alpha, "limit": limit, "bias": bias, "interleaved": interleaved}
    taken("npu_clipped_swiglu", x=x, dim=dim, **options)


@aclnn("aclnnClippedSwiglu", "T T? l d d d b | T", check=_check_clipped)
def clipped_swiglu(
    x: Tensor,
    group: Tensor | None,
    dim: int,
    alpha: float,
    limit: float,
    bias: float,
    interleaved: bool,
    out: Tensor,
) -> None:
    """ops-nn, aclnnClippedSwiglu: `A sigmoid(alpha A) (B + bias)`, A clamped from above and B on both sides."""
    wide = x.float()
    gate, up = (wide[..., ::2], wide[..., 1::2]) if interleaved else wide.chunk(2, dim)
    gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    out.copy_(gate * torch.sigmoid(alpha * gate) * (up + bias))


def _check_swiglu(x: Tensor, dim: int, out: Tensor) -> None:
    taken("npu_swiglu", input=x, dim=dim)


@aclnn("aclnnSwiGlu", "T l | T", check=_check_swiglu)
def swiglu(x: Tensor, dim: int, out: Tensor) -> None:
    """torch_npu's npu_swiglu: `A sigmoid(A) B`."""
    gate, up = x.float().chunk(2, dim)
    out.copy_(functional.silu(gate) * up)


def _check_weight_only(x: Tensor, weight: Tensor, scale: Tensor, *_: object) -> None:
    taken("npu_weight_quant_batchmatmul", x=x, weight=weight, antiquant_scale=scale)


@aclnn("aclnnWeightQuantBatchMatmulV2", "T T T T? T? T? T? l | T", check=_check_weight_only)
def weight_quant_matmul(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    offset: Tensor | None,
    quant_scale: Tensor | None,
    quant_offset: Tensor | None,
    bias: Tensor | None,
    group: int,
    out: Tensor,
) -> None:
    """torch_npu's npu_weight_quant_batchmatmul, per channel: `x (weight scale)`, the product in brackets in x's dtype."""
    out.copy_(x.float() @ (weight.to(x.dtype) * scale).float())
