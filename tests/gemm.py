"""Kernels of the tests' own for the CPU: products of bfloat16, and experts composed of them. For the fixture `cpu_kernels`."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from deepport import composed, formats
from deepport.kernel import YES, Kernel, Signature, Support, no

WIDE = "attribute: sums are rounded"
NARROW = "dtype: float32 is not for it"
"""What they say to other calls."""


def linear(
    x: Tensor, w: Tensor, scale: Tensor | None = None, format: str = formats.PLAIN, wide: bool = False
) -> Tensor:
    return torch.nn.functional.linear(x, w)


def block_linear(x: Tensor, w: Tensor, scale: Tensor | None = None, format: str = formats.PLAIN) -> Tensor:
    return torch.bmm(x.transpose(0, 1), w.transpose(1, 2)).transpose(0, 1).contiguous()


def grouped_linear(x: Tensor, w: Tensor, scale: Tensor | None, format: str, offsets: Tensor) -> Tensor:
    y = x.new_zeros((x.shape[0], w.shape[1]))
    for e, (low, high) in enumerate(pairwise(offsets.tolist())):
        y[low:high] = x[low:high] @ w[e].T
    return y


def _takes(signature: Signature) -> Support:
    if signature.arguments.get("wide"):
        return no(*WIDE.split(": "))
    return YES if signature["x"].dtype == torch.bfloat16 else no(*NARROW.split(": "))


GEMMS = (
    Kernel("linear", "gemm", linear, _takes),
    Kernel("block_linear", "gemm", block_linear, _takes),
    Kernel("grouped_linear", "gemm", grouped_linear, _takes),
    Kernel("moe_experts", "composed", composed.moe_experts, _takes),
)
