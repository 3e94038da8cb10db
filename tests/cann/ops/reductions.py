"""Sums, extremes, counts and other reductions; running sums. An empty list of dimensions means all of them."""

from __future__ import annotations

import torch
from torch import Tensor

from cann.dispatch import aclnn
from cann.wire import DTYPES


def _all(x: Tensor, dims: list[int]) -> list[int]:
    return dims or list(range(x.dim()))


@aclnn("aclnnReduceSum", "T I b i | T")
def reduce_sum(x: Tensor, dims: list[int], keep: bool, dtype: int, out: Tensor) -> None:
    out.copy_(torch.sum(x, _all(x, dims), keep, dtype=DTYPES[dtype]))


@aclnn("aclnnMean", "T I b i | T")
def mean(x: Tensor, dims: list[int], keep: bool, dtype: int, out: Tensor) -> None:
    out.copy_(torch.mean(x, _all(x, dims), keep, dtype=DTYPES[dtype]))


@aclnn("aclnnProd", "T i | T")
def prod(x: Tensor, dtype: int, out: Tensor) -> None:
    out.copy_(torch.prod(x, dtype=DTYPES[dtype]))


@aclnn("aclnnProdDim", "T l b i | T")
def prod_dim(x: Tensor, dim: int, keep: bool, dtype: int, out: Tensor) -> None:
    out.copy_(torch.prod(x, dim, keep, dtype=DTYPES[dtype]))


@aclnn("aclnnLogSumExp", "T I b | T")
def logsumexp(x: Tensor, dims: list[int], keep: bool, out: Tensor) -> None:
    out.copy_(torch.logsumexp(x, _all(x, dims), keep))


@aclnn("aclnnLinalgVectorNorm", "T S I b i | T")
def vector_norm(x: Tensor, order: float, dims: list[int], keep: bool, dtype: int, out: Tensor) -> None:
    out.copy_(torch.linalg.vector_norm(x.to(out.dtype), order, _all(x, dims), keep))


@aclnn("aclnnVarCorrection", "T I l b | T")
def var(x: Tensor, dims: list[int], correction: int, keep: bool, out: Tensor) -> None:
    out.copy_(torch.var(x, _all(x, dims), correction=correction, keepdim=keep))


@aclnn("aclnnStd", "T I l b | T")
def std(x: Tensor, dims: list[int], correction: int, keep: bool, out: Tensor) -> None:
    out.copy_(torch.std(x, _all(x, dims), correction=correction, keepdim=keep))


@aclnn("aclnnAny", "T I b | T")
def any_(x: Tensor, dims: list[int], keep: bool, out: Tensor) -> None:
    out.copy_(torch.any(x, _all(x, dims), keep))


@aclnn("aclnnAll", "T I b | T")
def all_(x: Tensor, dims: list[int], keep: bool, out: Tensor) -> None:
    out.copy_(torch.all(x, _all(x, dims), keep))


@aclnn("aclnnMax", "T | T")
def max_(x: Tensor, out: Tensor) -> None:
    out.copy_(x.max())


@aclnn("aclnnMin", "T | T")
def min_(x: Tensor, out: Tensor) -> None:
    out.copy_(x.min())


@aclnn("aclnnMaxDim", "T l b | T T")
def max_dim(x: Tensor, dim: int, keep: bool, values: Tensor, places: Tensor) -> None:
    found = torch.max(x, dim, keep)
    values.copy_(found.values)
    places.copy_(found.indices)


@aclnn("aclnnMinDim", "T l b | T T")
def min_dim(x: Tensor, dim: int, keep: bool, values: Tensor, places: Tensor) -> None:
    found = torch.min(x, dim, keep)
    values.copy_(found.values)
    places.copy_(found.indices)


@aclnn("aclnnAmax", "T I b | T")
def amax(x: Tensor, dims: list[int], keep: bool, out: Tensor) -> None:
    out.copy_(torch.amax(x, _all(x, dims), keep))


@aclnn("aclnnAmin", "T I b | T")
def amin(x: Tensor, dims: list[int], keep: bool, out: Tensor) -> None:
    out.copy_(torch.amin(x, _all(x, dims), keep))


@aclnn("aclnnAminmax", "T I b | T T")
def aminmax(x: Tensor, dims: list[int], keep: bool, least: Tensor, most: Tensor) -> None:
    least.copy_(torch.amin(x, _all(x, dims), keep))
    most.copy_(torch.amax(x, _all(x, dims), keep))


@aclnn("aclnnArgMax", "T l b | T")
def argmax(x: Tensor, dim: int, keep: bool, out: Tensor) -> None:
    out.copy_(torch.argmax(x, dim, keep))


@aclnn("aclnnArgMin", "T l b | T")
def argmin(x: Tensor, dim: int, keep: bool, out: Tensor) -> None:
    out.copy_(torch.argmin(x, dim, keep))


@aclnn("aclnnCumsum", "T l i | T")
def cumsum(x: Tensor, dim: int, dtype: int, out: Tensor) -> None:
    out.copy_(torch.cumsum(x, dim, dtype=DTYPES[dtype]))


@aclnn("aclnnCumprod", "T S i | T")
def cumprod(x: Tensor, dim: int, dtype: int, out: Tensor) -> None:
    out.copy_(torch.cumprod(x, dim, dtype=DTYPES[dtype]))


@aclnn("aclnnBincount", "T T? l | T")
def bincount(x: Tensor, weights: Tensor | None, least: int, out: Tensor) -> None:
    out.copy_(torch.bincount(x, weights, least))


@aclnn("aclnnHistc", "T l S S | T")
def histc(x: Tensor, bins: int, low: float, high: float, out: Tensor) -> None:
    out.copy_(torch.histc(x.float(), bins, low, high))


@aclnn("aclnnTrace", "T | T")
def trace(x: Tensor, out: Tensor) -> None:
    out.copy_(torch.trace(x))
