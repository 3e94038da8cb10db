"""Sorting, the largest, searching. Among equals the vendor promises an order for stable sorts only; so do we."""

from __future__ import annotations

import torch
from torch import Tensor

from cann.dispatch import aclnn
from cann.wire import set_sizes


@aclnn("aclnnSort", "T b l b | T T")
def sort(x: Tensor, stable: bool, dim: int, descending: bool, values: Tensor, places: Tensor) -> None:
    found = torch.sort(x, dim=dim, descending=descending, stable=stable)
    values.copy_(found.values)
    places.copy_(found.indices)


@aclnn("aclnnTopkV2", "T l l b b l | T T")
def topk(
    x: Tensor, k: int, dim: int, largest: bool, ordered: bool, precision: int, values: Tensor, places: Tensor
) -> None:
    found = torch.topk(x, k, dim, largest, ordered)
    values.copy_(found.values)
    places.copy_(found.indices)


@aclnn("aclnnSearchSorted", "T T b b T? | T")
def searchsorted(
    boundaries: Tensor, x: Tensor, as_int32: bool, right: bool, sorter: Tensor | None, out: Tensor
) -> None:
    out.copy_(torch.searchsorted(boundaries, x, right=right, sorter=sorter))


@aclnn("aclnnSearchSorteds", "T S b b T? | T")
def searchsorted_number(
    boundaries: Tensor, x: float, as_int32: bool, right: bool, sorter: Tensor | None, out: Tensor
) -> None:
    out.copy_(torch.searchsorted(boundaries, x, right=right, sorter=sorter))


@aclnn("aclnnBucketize", "T T b b | T")
def bucketize(x: Tensor, boundaries: Tensor, as_int32: bool, right: bool, out: Tensor) -> None:
    out.copy_(torch.bucketize(x, boundaries, right=right))


@aclnn("aclnnNonzero", "T | T")
def nonzero(x: Tensor, out: Tensor) -> None:
    """The caller gives room for every element, and asks the handle afterwards how many there were."""
    found = torch.nonzero(x)
    out[: len(found)].copy_(found)
    set_sizes(out, found.shape)


@aclnn("aclnnNonzeroV2", "T | T")
def nonzero_v2(x: Tensor, out: Tensor) -> None:
    """As aclnnNonzero, with the dimensions first."""
    found = torch.nonzero(x).t().contiguous()
    out.view(-1)[: found.numel()].copy_(found.view(-1))
    set_sizes(out, found.shape)


@aclnn("aclnnMaskedSelect", "T T | T")
def masked_select(x: Tensor, mask: Tensor, out: Tensor) -> None:
    found = torch.masked_select(x, mask)
    out.view(-1)[: found.numel()].copy_(found)
    set_sizes(out, found.shape)


@aclnn("aclnnUnique2", "T b b b | T T T")
def unique2(
    x: Tensor, ordered: bool, inverse: bool, counts: bool, values: Tensor, places: Tensor, times: Tensor
) -> None:
    found, where, many = torch.unique(x, sorted=ordered, return_inverse=True, return_counts=True)
    values.view(-1)[: found.numel()].copy_(found)
    set_sizes(values, found.shape)
    if inverse or counts:
        places.copy_(where)
    if counts:
        times.view(-1)[: many.numel()].copy_(many)
        set_sizes(times, many.shape)
