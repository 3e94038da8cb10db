"""Gathering and scattering by ids, masks, joining, padding, repeating."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cann.dispatch import aclnn

Number = bool | int | float
_REDUCE = {0: "none", 1: "add", 2: "multiply"}


@aclnn("aclnnGather", "T l T | T")
def gather(x: Tensor, dim: int, ids: Tensor, out: Tensor) -> None:
    out.copy_(torch.gather(x, dim, ids.long()))


@aclnn("aclnnIndexSelect", "T l T | T")
def index_select(x: Tensor, dim: int, ids: Tensor, out: Tensor) -> None:
    out.copy_(torch.index_select(x, dim, ids))


@aclnn("aclnnEmbedding", "T T | T")
def embedding(weight: Tensor, ids: Tensor, out: Tensor) -> None:
    out.copy_(F.embedding(ids.long(), weight))


@aclnn("aclnnIndex", "T L | T")
def index(x: Tensor, ids: list[Tensor], out: Tensor) -> None:
    if out.numel():
        out.copy_(torch.ops.aten.index(x, _chosen(ids)))


@aclnn("aclnnIndexPutImpl", "T L T b b")
def index_put(x: Tensor, ids: list[Tensor], values: Tensor, accumulate: bool, unsafe: bool) -> None:
    if any(i.numel() for i in ids):
        torch.ops.aten.index_put_(x, _chosen(ids), values, accumulate)


def _chosen(ids: list[Tensor]) -> list[Tensor | None]:
    """A dimension that is not indexed comes as a tensor without elements. Where all are so, there is nothing to index."""
    return [_ids(i) if i.numel() else None for i in ids]


def _ids(ids: Tensor) -> Tensor:
    return ids if ids.dtype in (torch.bool, torch.uint8) else ids.long()


@aclnn("aclnnIndexAdd", "T l T T S | T")
def index_add(x: Tensor, dim: int, ids: Tensor, source: Tensor, alpha: Number, out: Tensor) -> None:
    out.copy_(torch.index_add(x, dim, ids, source, alpha=alpha))


@aclnn("aclnnIndexCopy", "T l T T | T")
def index_copy(x: Tensor, dim: int, ids: Tensor, source: Tensor, out: Tensor) -> None:
    out.copy_(torch.index_copy(x, dim, ids.long(), source))


@aclnn("aclnnInplaceIndexCopy", "T l T T")
def index_copy_in_place(x: Tensor, dim: int, ids: Tensor, source: Tensor) -> None:
    x.index_copy_(dim, ids.long(), source)


@aclnn("aclnnIndexFill", "T l T S | T")
def index_fill(x: Tensor, dim: int, ids: Tensor, value: Number, out: Tensor) -> None:
    out.copy_(torch.index_fill(x, dim, ids.long(), value))


@aclnn("aclnnInplaceIndexFill", "T l T S")
def index_fill_in_place(x: Tensor, dim: int, ids: Tensor, value: Number) -> None:
    x.index_fill_(dim, ids.long(), value)


@aclnn("aclnnIndexFillTensor", "T l I S | T")
def index_fill_tensor(x: Tensor, dim: int, ids: list[int], value: Number, out: Tensor) -> None:
    out.copy_(torch.index_fill(x, dim, torch.tensor(ids), value))


@aclnn("aclnnScatter", "T l T T l | T")
def scatter(x: Tensor, dim: int, ids: Tensor, source: Tensor, reduce: int, out: Tensor) -> None:
    out.copy_(_scattered(x, dim, ids, source, reduce))


@aclnn("aclnnInplaceScatter", "T l T T l")
def scatter_in_place(x: Tensor, dim: int, ids: Tensor, source: Tensor, reduce: int) -> None:
    x.copy_(_scattered(x, dim, ids, source, reduce))


@aclnn("aclnnScatterValue", "T l T S l | T")
def scatter_value(x: Tensor, dim: int, ids: Tensor, value: Number, reduce: int, out: Tensor) -> None:
    out.copy_(_scattered(x, dim, ids, value, reduce))


@aclnn("aclnnInplaceScatterValue", "T l T S l")
def scatter_value_in_place(x: Tensor, dim: int, ids: Tensor, value: Number, reduce: int) -> None:
    x.copy_(_scattered(x, dim, ids, value, reduce))


def _scattered(x: Tensor, dim: int, ids: Tensor, source: Tensor | Number, reduce: int) -> Tensor:
    ids = ids.long()
    if _REDUCE[reduce] == "none":
        return torch.scatter(x, dim, ids, source)
    return torch.scatter(x, dim, ids, source, reduce=_REDUCE[reduce])


@aclnn("aclnnScatterAdd", "T l T T | T")
def scatter_add(x: Tensor, dim: int, ids: Tensor, source: Tensor, out: Tensor) -> None:
    out.copy_(torch.scatter_add(x, dim, ids.long(), source))


@aclnn("aclnnInplaceMaskedFillScalar", "T T S")
def masked_fill(x: Tensor, mask: Tensor, value: Number) -> None:
    x.masked_fill_(mask, value)


@aclnn("aclnnInplaceMaskedFillTensor", "T T T")
def masked_fill_tensor(x: Tensor, mask: Tensor, value: Tensor) -> None:
    x.masked_fill_(mask, value.to(x.dtype).reshape(()))


@aclnn("aclnnInplaceMaskedScatter", "T T T")
def masked_scatter(x: Tensor, mask: Tensor, source: Tensor) -> None:
    x.masked_scatter_(mask, source)


@aclnn("aclnnCat", "L l | T")
def cat(parts: list[Tensor], dim: int, out: Tensor) -> None:
    out.copy_(torch.cat([p.to(out.dtype) for p in parts], dim))


@aclnn("aclnnStack", "L l | T")
def stack(parts: list[Tensor], dim: int, out: Tensor) -> None:
    out.copy_(torch.stack([p.to(out.dtype) for p in parts], dim))


@aclnn("aclnnConstantPadNd", "T I S | T")
def constant_pad(x: Tensor, pads: list[int], value: Number, out: Tensor) -> None:
    out.copy_(F.pad(x, pads, value=value))


@aclnn("aclnnRepeat", "T I | T")
def repeat(x: Tensor, times: list[int], out: Tensor) -> None:
    out.copy_(x.repeat(times))


@aclnn("aclnnRepeatInterleave", "T T l | T")
def repeat_interleave(x: Tensor, times: Tensor, size: int, out: Tensor) -> None:
    out.copy_(torch.repeat_interleave(x.flatten(), times))


@aclnn("aclnnRepeatInterleaveWithDim", "T T l l | T")
def repeat_interleave_dim(x: Tensor, times: Tensor, dim: int, size: int, out: Tensor) -> None:
    out.copy_(torch.repeat_interleave(x, times, dim))


@aclnn("aclnnRepeatInterleaveInt", "T l l | T")
def repeat_interleave_int(x: Tensor, times: int, size: int, out: Tensor) -> None:
    out.copy_(torch.repeat_interleave(x, times))


@aclnn("aclnnRepeatInterleaveIntWithDim", "T l l l | T")
def repeat_interleave_int_dim(x: Tensor, times: int, dim: int, size: int, out: Tensor) -> None:
    out.copy_(torch.repeat_interleave(x, times, dim))


@aclnn("aclnnFlip", "T I | T")
def flip(x: Tensor, dims: list[int], out: Tensor) -> None:
    out.copy_(torch.flip(x, dims))


@aclnn("aclnnRoll", "T I I | T")
def roll(x: Tensor, shifts: list[int], dims: list[int], out: Tensor) -> None:
    out.copy_(torch.roll(x, shifts, dims))


@aclnn("aclnnTril", "T l | T")
def tril(x: Tensor, diagonal: int, out: Tensor) -> None:
    out.copy_(torch.tril(x, diagonal))


@aclnn("aclnnTriu", "T l | T")
def triu(x: Tensor, diagonal: int, out: Tensor) -> None:
    out.copy_(torch.triu(x, diagonal))


@aclnn("aclnnInplaceTril", "T l")
def tril_in_place(x: Tensor, diagonal: int) -> None:
    x.tril_(diagonal)


@aclnn("aclnnInplaceTriu", "T l")
def triu_in_place(x: Tensor, diagonal: int) -> None:
    x.triu_(diagonal)


@aclnn("aclnnOneHot", "T l T T l | T")
def one_hot(x: Tensor, classes: int, on: Tensor, off: Tensor, axis: int, out: Tensor) -> None:
    hot = F.one_hot(x.long(), classes).bool()
    out.copy_(torch.where(hot, on.to(out.dtype), off.to(out.dtype)))
