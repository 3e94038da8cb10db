"""Matrix products and convolutions. bfloat16 and float16 accumulate in float32, as the cube unit does.

The last argument of a product is cubeMathType, which may trade float32's accuracy for speed; nothing here does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cann.dispatch import aclnn

Number = bool | int | float


def _product(a: Tensor, b: Tensor) -> Tensor:
    narrow = a.dtype in (torch.bfloat16, torch.float16)
    return torch.matmul(a.float(), b.float()) if narrow else torch.matmul(a, b)


@aclnn("aclnnMm", "T T | T y")
def mm(a: Tensor, b: Tensor, out: Tensor, cube: int) -> None:
    out.copy_(_product(a, b))


@aclnn("aclnnMatmul", "T T | T y")
def matmul(a: Tensor, b: Tensor, out: Tensor, cube: int) -> None:
    out.copy_(_product(a, b))


@aclnn("aclnnBatchMatMul", "T T | T y")
def bmm(a: Tensor, b: Tensor, out: Tensor, cube: int) -> None:
    out.copy_(_product(a, b))


@aclnn("aclnnMv", "T T | T y")
def mv(a: Tensor, b: Tensor, out: Tensor, cube: int) -> None:
    out.copy_(_product(a, b))


@aclnn("aclnnDot", "T T | T")
def dot(a: Tensor, b: Tensor, out: Tensor) -> None:
    out.copy_(_product(a, b))


@aclnn("aclnnAddmm", "T T T S S | T y")
def addmm(x: Tensor, a: Tensor, b: Tensor, beta: Number, alpha: Number, out: Tensor, cube: int) -> None:
    out.copy_(_plus(x, _product(a, b), beta, alpha))


@aclnn("aclnnInplaceAddmm", "T T T S S y")
def addmm_in_place(x: Tensor, a: Tensor, b: Tensor, beta: Number, alpha: Number, cube: int) -> None:
    x.copy_(_plus(x, _product(a, b), beta, alpha))


@aclnn("aclnnBaddbmm", "T T T S S | T y")
def baddbmm(x: Tensor, a: Tensor, b: Tensor, beta: Number, alpha: Number, out: Tensor, cube: int) -> None:
    out.copy_(_plus(x, _product(a, b), beta, alpha))


def _plus(x: Tensor, product: Tensor, beta: Number, alpha: Number) -> Tensor:
    return alpha * product + (beta * x.to(product.dtype) if beta else 0)


@aclnn("aclnnConvolution", "T T T? I I I b I l | T y")
def convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int], dilation: list[int],
    transposed: bool, output_padding: list[int], groups: int, out: Tensor, cube: int,
) -> None:  # fmt: skip
    done = torch.convolution(
        x.float(), weight.float(), None if bias is None else bias.float(), stride, padding, dilation, transposed,
        output_padding, groups,
    )  # fmt: skip
    out.copy_(done)


@aclnn("aclnnConvolutionBackward", "T T T I? I I I b I l B y | T? T? T?")
def convolution_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: list[int] | None, stride: list[int], padding: list[int],
    dilation: list[int], transposed: bool, output_padding: list[int], groups: int, wanted: list[bool], cube: int,
    *outs: Tensor | None,
) -> None:  # fmt: skip
    found = torch.ops.aten.convolution_backward(
        grad.float(),
        x.float(),
        weight.float(),
        bias,
        stride,
        padding,
        dilation,
        transposed,
        output_padding,
        groups,
        wanted,
    )
    for out, value in zip(outs, found, strict=True):
        if out is not None and value is not None:
            out.copy_(value)
