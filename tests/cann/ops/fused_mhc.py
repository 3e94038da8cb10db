"""Fused residual streams. Meaning: the vendor's pages named at each."""

from __future__ import annotations

import torch
from torch import Tensor

from cann.dispatch import aclnn
from cann.table import taken


def _check_pre(
    x: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, gamma: Tensor | None, norm_eps: float, hc_eps: float,
    precise: int, *_: Tensor | None,
) -> None:  # fmt: skip
    taken(
        "npu_mhc_pre", x=x, phi=phi, alpha=alpha, bias=bias, norm_eps=norm_eps, hc_eps=hc_eps, out_flag=0,
        inner_precise=precise,
    )  # fmt: skip


@aclnn("aclnnMhcPreV2", "T T T T T? d d l | T T T T? T? T?", check=_check_pre)
def mhc_pre(
    x: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, gamma: Tensor | None, norm_eps: float, hc_eps: float,
    precise: int, collapsed: Tensor, post: Tensor, mixes: Tensor, *_: Tensor | None,
) -> None:  # fmt: skip
    """ops-transformer, aclnnMhcPre: the projection is of x, and its root comes after, as the page has it."""
    n = x.shape[-2]
    wide = x.float()
    flat = wide.flatten(-2)
    root = torch.rsqrt(flat.square().mean(-1, keepdim=True) + norm_eps)
    w = (flat @ phi.T) * root
    pre = torch.sigmoid(w[..., :n] * alpha[0] + bias[:n]) + hc_eps
    post.copy_(2 * torch.sigmoid(w[..., n : 2 * n] * alpha[1] + bias[n : 2 * n]))
    mixes.copy_((w[..., 2 * n :] * alpha[2] + bias[2 * n :]).view(mixes.shape))
    collapsed.copy_((pre[..., None] * wide).sum(-2))


def _check_sinkhorn(x: Tensor, eps: float, rounds: int, *_: Tensor | None) -> None:
    taken("npu_mhc_sinkhorn", x=x, eps=eps, num_iters=rounds, out_flag=0)


@aclnn("aclnnMhcSinkhorn", "T f l | T T? T?", check=_check_sinkhorn)
def mhc_sinkhorn(x: Tensor, eps: float, rounds: int, out: Tensor, *_: Tensor | None) -> None:
    """ops-transformer, aclnnMhcSinkhorn: softmax + eps, columns; then rows and columns, each sum plus eps."""
    p = x.softmax(-1) + eps
    p = p / (p.sum(-2, keepdim=True) + eps)
    for _round in range(rounds - 1):
        p = p / (p.sum(-1, keepdim=True) + eps)
        p = p / (p.sum(-2, keepdim=True) + eps)
    out.copy_(p)


def _check_post(x: Tensor, h_res: Tensor | None, h_out: Tensor, h_post: Tensor, out: Tensor) -> None:
    taken("npu_mhc_post", x=x, h_res=h_res, h_out=h_out, h_post=h_post)


@aclnn("aclnnMhcPost", "T T? T T | T", check=_check_post)
def mhc_post(x: Tensor, h_res: Tensor, h_out: Tensor, h_post: Tensor, out: Tensor) -> None:
    """ops-transformer, aclnnMhcPost: `h_res^T x + h_out h_post`; torch_npu 2.13's own page says the same."""
    mixed = h_res.transpose(-1, -2) @ x.float()
    out.copy_(mixed + h_post[..., None] * h_out.float()[..., None, :])
