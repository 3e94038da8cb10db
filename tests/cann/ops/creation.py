"""Ranges, identities and random numbers. Random numbers are ours: the device's generator is not simulated."""

from __future__ import annotations

import torch
from torch import Tensor

from cann.dispatch import aclnn

Number = int | float


@aclnn("aclnnArange", "S S S | T")
def arange(begin: Number, end: Number, step: Number, out: Tensor) -> None:
    out.copy_(torch.arange(begin, end, step)[: out.numel()])


@aclnn("aclnnRange", "S S S | T")
def range_(begin: Number, end: Number, step: Number, out: Tensor) -> None:
    out.copy_(begin + step * torch.arange(out.numel()))


@aclnn("aclnnLinspace", "S S l | T")
def linspace(begin: Number, end: Number, steps: int, out: Tensor) -> None:
    out.copy_(torch.linspace(begin, end, steps))


@aclnn("aclnnEye", "l l | T")
def eye(rows: int, columns: int, out: Tensor) -> None:
    out.copy_(torch.eye(rows, columns))


@aclnn("aclnnInplaceNormal", "T f f l l")
def normal(x: Tensor, mean: float, deviation: float, seed: int, offset: int) -> None:
    x.copy_(torch.randn(x.shape, generator=_generator(seed, offset)) * deviation + mean)


@aclnn("aclnnInplaceUniform", "T d d l l")
def uniform(x: Tensor, low: float, high: float, seed: int, offset: int) -> None:
    x.copy_(torch.rand(x.shape, generator=_generator(seed, offset)) * (high - low) + low)


@aclnn("aclnnInplaceRandom", "T l l l l")
def random(x: Tensor, low: int, high: int, seed: int, offset: int) -> None:
    x.copy_(torch.randint(low, high, x.shape, generator=_generator(seed, offset)))


@aclnn("aclnnRandperm", "l l l | T")
def randperm(count: int, seed: int, offset: int, out: Tensor) -> None:
    out.copy_(torch.randperm(count, generator=_generator(seed, offset)))


@aclnn("aclnnMultinomial", "T l b l l | T")
def multinomial(x: Tensor, count: int, replacement: bool, seed: int, offset: int, out: Tensor) -> None:
    out.copy_(torch.multinomial(x.float(), count, replacement, generator=_generator(seed, offset)))


def _generator(seed: int, offset: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + offset) % 2**47)
