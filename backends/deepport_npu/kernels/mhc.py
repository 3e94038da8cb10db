"""Residual streams. The vendor documents these operators for A5 in the torch_npu that the table was read from."""

from __future__ import annotations

import torch
from torch import Tensor

from deepport.kernel import Kernel, Signature, Support
from deepport_npu.kernels.chip import Chip, every, laid


def kernels(chip: Chip) -> tuple[Kernel, ...]:
    return (
        Kernel("mhc_pre", "npu_mhc_pre", mhc_pre, lambda s: _pre(chip, s)),
        Kernel("mhc_post", "npu_mhc_post", mhc_post, lambda s: _post(chip, s)),
    )


def mhc_pre(
    streams: Tensor, fn: Tensor, scale: Tensor, base: Tensor, iters: int, eps: float, norm_eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    import torch_npu

    collapsed, post, mixes, *_ = torch_npu.npu_mhc_pre(
        streams, fn, scale.contiguous(), base, norm_eps=norm_eps, hc_eps=eps, out_flag=0, inner_precise=0
    )
    comb = torch_npu.npu_mhc_sinkhorn(mixes, eps=eps, num_iters=iters, out_flag=0)[0]
    return collapsed, post, comb


def _pre(chip: Chip, call: Signature) -> Support:
    streams, fn, base = call["streams"], call["fn"], call["base"]
    tokens, n = streams.shape[:2]
    return every(
        chip.takes(
            "npu_mhc_pre", x=streams, phi=fn, alpha=laid(call["scale"].dtype, *call["scale"].shape), bias=base,
            norm_eps=call["norm_eps"], hc_eps=call["eps"], out_flag=0, inner_precise=0,
        ),
        chip.takes(
            "npu_mhc_sinkhorn", x=laid(torch.float32, tokens, n, n), eps=call["eps"], num_iters=call["iters"], out_flag=0
        ),
    )  # fmt: skip


def mhc_post(y: Tensor, streams: Tensor, post: Tensor, comb: Tensor) -> Tensor:
    """`comb` as it is: aclnnMhcPost sums over the first axis of h_res, `h_res^T x + h_out h_post`."""
    import torch_npu

    found: Tensor = torch_npu.npu_mhc_post(streams, comb, y, post)
    return found


def _post(chip: Chip, call: Signature) -> Support:
    return chip.takes("npu_mhc_post", x=call["streams"], h_res=call["comb"], h_out=call["y"], h_post=call["post"])
