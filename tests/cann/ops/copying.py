"""Copies and fills; a copy between dtypes is a cast."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cann.dispatch import aclnn


@aclnn("aclnnInplaceCopy", "| T T")
def copy(target: Tensor, source: Tensor) -> None:
    target.copy_(source)


@aclnn("aclnnInplaceFillScalar", "T S")
def fill(target: Tensor, value: Any) -> None:
    target.fill_(value)


@aclnn("aclnnInplaceZero", "T")
def zero(target: Tensor) -> None:
    target.zero_()


@aclnn("aclnnInplaceOne", "T")
def one(target: Tensor) -> None:
    target.fill_(1)
