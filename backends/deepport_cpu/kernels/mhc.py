"""Residual streams (`csrc/cpu/mhc.h`)."""

import torch
from torch import Tensor

from deepport.fit import calls
from deepport.kernel import Kernel
from deepport_cpu.native import call, dense, like


def mhc_pre(
    streams: Tensor, fn: Tensor, scale: Tensor, base: Tensor, iters: int, eps: float, norm_eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    tokens, n, width = streams.shape
    y = torch.empty((tokens, width), dtype=streams.dtype)
    post, comb = torch.empty((tokens, n)), torch.empty((tokens, n, n))
    given = (dense(streams), dense(fn), dense(scale), dense(base))
    call.mhc_pre(*given, y, post, comb, streams.dtype, tokens, n, width, iters, eps, norm_eps)
    return y, post, comb


def mhc_head(streams: Tensor, fn: Tensor, scale: Tensor, base: Tensor, eps: float, norm_eps: float) -> Tensor:
    tokens, n, width = streams.shape
    y = torch.empty((tokens, width), dtype=streams.dtype)
    given = (dense(streams), dense(fn), dense(scale), dense(base))
    call.mhc_head(*given, y, streams.dtype, tokens, n, width, eps, norm_eps)
    return y


def mhc_post(y: Tensor, streams: Tensor, post: Tensor, comb: Tensor) -> Tensor:
    mixed = like(streams)
    given = (dense(y), dense(streams), dense(post), dense(comb))
    call.mhc_post(*given, mixed, streams.dtype, *streams.shape)
    return mixed


KERNELS = (
    Kernel("mhc_pre", "native", mhc_pre, calls.mhc_pre),
    Kernel("mhc_head", "native", mhc_head, calls.mhc_head),
    Kernel("mhc_post", "native", mhc_post, calls.mhc_post),
)
