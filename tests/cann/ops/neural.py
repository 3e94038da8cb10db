"""Softmax, normalisation and losses, and the gradients that torch's autograd asks the device for."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cann.dispatch import aclnn

aten = torch.ops.aten
Number = bool | int | float
_REDUCTION = ("none", "mean", "sum")


@aclnn("aclnnSoftmax", "T l | T")
def softmax(x: Tensor, dim: int, out: Tensor) -> None:
    out.copy_(torch.softmax(x, dim))


@aclnn("aclnnLogSoftmax", "T l | T")
def log_softmax(x: Tensor, dim: int, out: Tensor) -> None:
    out.copy_(torch.log_softmax(x, dim))


@aclnn("aclnnSoftmaxBackward", "T T l | T")
def softmax_backward(grad: Tensor, y: Tensor, dim: int, out: Tensor) -> None:
    out.copy_(aten._softmax_backward_data(grad, y, dim, y.dtype))


@aclnn("aclnnLogSoftmaxBackward", "T T l | T")
def log_softmax_backward(grad: Tensor, y: Tensor, dim: int, out: Tensor) -> None:
    out.copy_(aten._log_softmax_backward_data(grad, y, dim, y.dtype))


@aclnn("aclnnSiluBackward", "T T | T")
def silu_backward(grad: Tensor, x: Tensor, out: Tensor) -> None:
    out.copy_(aten.silu_backward(grad, x))


@aclnn("aclnnSigmoidBackward", "T T | T")
def sigmoid_backward(grad: Tensor, y: Tensor, out: Tensor) -> None:
    out.copy_(aten.sigmoid_backward(grad, y))


@aclnn("aclnnTanhBackward", "T T | T")
def tanh_backward(grad: Tensor, y: Tensor, out: Tensor) -> None:
    out.copy_(aten.tanh_backward(grad, y))


@aclnn("aclnnSoftplusBackward", "T T S S | T")
def softplus_backward(grad: Tensor, x: Tensor, beta: Number, threshold: Number, out: Tensor) -> None:
    out.copy_(aten.softplus_backward(grad, x, beta, threshold))


@aclnn("aclnnThresholdBackward", "T T S | T")
def threshold_backward(grad: Tensor, x: Tensor, threshold: Number, out: Tensor) -> None:
    out.copy_(aten.threshold_backward(grad, x, threshold))


@aclnn("aclnnEmbeddingDenseBackward", "T T l l b | T")
def embedding_backward(grad: Tensor, ids: Tensor, rows: int, padding: int, by_frequency: bool, out: Tensor) -> None:
    out.copy_(aten.embedding_dense_backward(grad, ids.long(), rows, padding, by_frequency))


@aclnn("aclnnNLLLoss", "T T T l l | T T")
def nll_loss(
    x: Tensor, target: Tensor, weight: Tensor, reduction: int, ignored: int, out: Tensor, total: Tensor
) -> None:
    loss, weights = aten.nll_loss_forward(x.float(), target, weight.float(), reduction, ignored)
    out.copy_(loss)
    total.copy_(weights)


@aclnn("aclnnNLLLossBackward", "T T T T l l T | T")
def nll_loss_backward(
    grad: Tensor, x: Tensor, target: Tensor, weight: Tensor, reduction: int, ignored: int, total: Tensor, out: Tensor
) -> None:
    found = aten.nll_loss_backward(grad.float(), x.float(), target, weight.float(), reduction, ignored, total.float())
    out.copy_(found)


@aclnn("aclnnLayerNorm", "T I T? T? d | T T T")
def layer_norm(
    x: Tensor,
    shape: list[int],
    weight: Tensor | None,
    bias: Tensor | None,
    epsilon: float,
    out: Tensor,
    mean: Tensor,
    rstd: Tensor,
) -> None:
    found = aten.native_layer_norm(x, shape, weight, bias, epsilon)
    for target, value in zip((out, mean, rstd), found, strict=True):
        target.copy_(value)


@aclnn("aclnnMseLoss", "T T l | T")
def mse_loss(x: Tensor, target: Tensor, reduction: int, out: Tensor) -> None:
    out.copy_(F.mse_loss(x, target, reduction=_REDUCTION[reduction]))
