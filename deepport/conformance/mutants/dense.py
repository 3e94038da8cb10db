"""Mutants of the dense operators."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from deepport import formats
from deepport.conformance.mutants.formats import misread
from deepport.conformance.mutants.mutant import (
    Given,
    Mutant,
    answered,
    asked,
    differentiated,
    rounded,
    written,
)
from deepport.formats import accumulation
from deepport.ops import block_linear, linear, rms_norm, rotary, rotary_angles

TILE = 32


def mutants() -> Iterator[Mutant]:
    yield from _linear()
    yield from _block_linear()
    yield from _rms_norm()
    yield from _rotary()
    yield from _rotary_angles()
    yield from _gradients()


def narrow_sum(x: Tensor, w: Tensor) -> Tensor:
    """`x @ w^T` whose running sum, a tile of K after the other, is held in x's dtype."""
    total = torch.zeros(*x.shape[:-1], w.shape[-2], dtype=x.dtype, device=x.device)
    for first in range(0, x.shape[-1], TILE):
        a, b = (t[..., first : first + TILE].to(torch.float32) for t in (x, w))
        total = (total.float() + a @ b.transpose(-2, -1)).to(x.dtype)
    return total


def split_sum(x: Tensor, w: Tensor) -> Tensor:
    """`x @ w^T` of tiles of K that are summed apart, and added last first."""
    parts = [
        x[..., first : first + TILE].to(torch.float32) @ w[..., first : first + TILE].float().transpose(-2, -1)
        for first in range(0, x.shape[-1], TILE)
    ]
    return sum(parts[-2::-1], parts[-1])


def _tensor_float(t: Tensor) -> Tensor:
    """float32 with TF32's 10 bits of mantissa."""
    return ((t.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32) if t.dtype == torch.float32 else t


def _linear() -> Iterator[Mutant]:
    def in_bfloat16(x: Tensor, w: Tensor, scale: Tensor | None, format: str, wide: bool) -> Tensor:
        w = formats.decode(w, scale, format, x.dtype if format == formats.PLAIN else torch.float32)
        return narrow_sum(x, w).to(_result(x, wide))

    def tail(results: list[Tensor], given: Given) -> Tensor:
        results[0][..., results[0].shape[-1] // TILE * TILE :] = 0
        return results[0]

    def split_k(x: Tensor, w: Tensor, scale: Tensor | None, format: str, wide: bool) -> Tensor:
        return split_sum(x, formats.decode(w, scale, format, torch.float32)).to(_result(x, wide))

    def rounding(results: list[Tensor], given: Given) -> Tensor:
        return rounded(results[0], given["x"].dtype)

    yield written(
        linear, "sums_in_bfloat16", "the running sum is rounded to bfloat16 after every 32 terms", in_bfloat16
    )
    yield asked(
        linear, "tensor_float", "float32 factors lose 13 bits, as in TF32",
        lambda g: {"x": _tensor_float(g["x"]), "w": _tensor_float(g["w"])},
    )  # fmt: skip
    yield asked(
        linear, "drops_the_last_k", "the last term of every sum is missing", lambda g: {"x": _last_zero(g["x"])}
    )
    yield answered(linear, "drops_the_tail_tile", "columns behind the last whole tile of 32 are zeros", tail)
    yield answered(
        linear, "rounds_wide_results", "sums are rounded to x's dtype where they are asked for wide", rounding
    )
    yield from misread(linear, "w", "scale")
    yield Mutant(
        "splits_k", "linear", "none", split_k,
        equivalent="float32 sums of tiles, added in another order: the order of a sum is free",
    )  # fmt: skip


def _result(x: Tensor, wide: bool) -> torch.dtype:
    return accumulation(x.dtype) if wide else x.dtype


def _last_zero(x: Tensor) -> Tensor:
    return x * (torch.arange(x.shape[-1]) < x.shape[-1] - 1).to(x.dtype)


def _block_linear() -> Iterator[Mutant]:
    def in_bfloat16(x: Tensor, w: Tensor, scale: Tensor | None, format: str) -> Tensor:
        w = formats.decode(w, scale, format, x.dtype if format == formats.PLAIN else torch.float32)
        return narrow_sum(x.transpose(0, 1), w).transpose(0, 1).contiguous()

    yield written(
        block_linear, "sums_in_bfloat16", "the running sum is rounded to bfloat16 after every 32 terms", in_bfloat16
    )
    yield asked(
        block_linear, "first_group_for_all", "every group is multiplied by the first one's matrix", _first_group
    )
    yield asked(
        block_linear, "reverses_groups", "groups meet the matrices in reverse order", lambda g: {"x": g["x"].flip(1)}
    )
    yield from misread(block_linear, "w", "scale", ("ignores_the_scale", "exponent_off_by_one"))


def _first_group(given: Given) -> Given:
    w, scale = given["w"], given["scale"]
    return {
        "w": w[:1].expand_as(w).contiguous(),
        "scale": None if scale is None else scale[:1].expand_as(scale).contiguous(),
    }


def _rms_norm() -> Iterator[Mutant]:
    def twice(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
        wide = x.to(accumulation(x.dtype))
        y = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
        return (y if weight is None else weight * y).to(x.dtype)

    def outside(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
        wide = x.to(accumulation(x.dtype))
        y = wide / (wide.square().mean(-1, keepdim=True).sqrt() + eps)
        return (y if weight is None else weight * y).to(x.dtype)

    def over_all(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
        wide = x.to(accumulation(x.dtype))
        y = wide * torch.rsqrt(wide.square().mean() + eps)
        return (y if weight is None else weight * y).to(x.dtype)

    def narrow_sum_of_squares(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
        wide = x.to(accumulation(x.dtype))
        total = narrow_sum(x[..., None, :], x[..., None, :])[..., 0].to(wide.dtype)
        y = wide * torch.rsqrt(total / x.shape[-1] + eps)
        return (y if weight is None else weight * y).to(x.dtype)

    def centred(given: Given) -> Given:
        return {"x": given["x"] - given["x"].mean(-1, keepdim=True)}

    yield written(rms_norm, "rounds_twice", "rounds before the weight and after it", twice)
    yield written(rms_norm, "eps_outside_the_root", "divides by sqrt(mean) + eps", outside)
    yield written(rms_norm, "mean_of_everything", "the mean runs over all rows", over_all)
    yield written(
        rms_norm,
        "sums_in_bfloat16",
        "the sum of squares is rounded to x's dtype after every 32 terms",
        narrow_sum_of_squares,
    )
    yield asked(rms_norm, "subtracts_the_mean", "a layer norm: the mean is subtracted first", centred)
    yield asked(rms_norm, "weight_plus_one", "multiplies by 1 + weight", lambda g: {"weight": _plus_one(g["weight"])})
    yield asked(rms_norm, "ignores_eps", "eps is 0", lambda g: {"eps": 0.0})


def _plus_one(weight: Tensor | None) -> Tensor | None:
    return None if weight is None else weight + 1


def _rotary() -> Iterator[Mutant]:
    def half_split(x: Tensor, cos: Tensor, sin: Tensor, inverse: bool) -> Tensor:
        wide = accumulation(x.dtype)
        shape = (cos.shape[0], *[1] * (x.dim() - 2), cos.shape[1])
        c, s = cos.to(wide).view(shape), (-sin if inverse else sin).to(wide).view(shape)
        kept, turned = x.split((x.shape[-1] - 2 * cos.shape[-1], 2 * cos.shape[-1]), -1)
        a, b = turned.to(wide).chunk(2, -1)
        return torch.cat((kept, torch.cat((a * c - b * s, b * c + a * s), -1).to(x.dtype)), -1)

    def leading(results: list[Tensor], given: Given) -> Tensor:
        """The trailing channels' kernel, told to begin at the first."""
        x, turned = given["x"], 2 * given["cos"].shape[-1]
        moved = torch.cat((x[..., turned:], x[..., :turned]), -1)
        found = rotary_(moved, given["cos"], given["sin"], given["inverse"])
        kept = x.shape[-1] - turned
        return torch.cat((found[..., kept:], found[..., :kept]), -1)

    rotary_ = rotary.reference
    narrow: Any = lambda g: {n: rounded(g[n], torch.bfloat16) for n in ("cos", "sin")}  # noqa: E731
    yield answered(rotary, "leading_channels", "rotates the leading channels", leading)
    yield written(rotary, "half_split", "pairs channel i with i + R, not with its neighbour", half_split)
    yield asked(rotary, "ignores_inverse", "always rotates forward", lambda g: {"inverse": False})
    yield asked(rotary, "angles_in_bfloat16", "cosines and sines are rounded to bfloat16", narrow)
    yield asked(
        rotary, "position_off_by_one", "each token is turned by its predecessor's angle",
        lambda g: {"cos": g["cos"].roll(1, 0), "sin": g["sin"].roll(1, 0)},
    )  # fmt: skip


def _rotary_angles() -> Iterator[Mutant]:
    def product(dtype: torch.dtype) -> Any:
        def angles(positions: Tensor, frequencies: Tensor, ratio: int) -> tuple[Tensor, Tensor]:
            angle = (positions.clamp(min=0) * ratio).to(dtype)[:, None] * frequencies.to(dtype)
            return angle.cos().float(), angle.sin().float()

        return angles

    yield written(rotary_angles, "float64_product", "angles are products in float64", product(torch.float64))
    yield written(rotary_angles, "bfloat16_product", "angles are products in bfloat16", product(torch.bfloat16))
    yield asked(rotary_angles, "ignores_ratio", "entries stand at their own number", lambda g: {"ratio": 1})
    yield asked(
        rotary_angles, "last_token", "entries stand at their last token", lambda g: {"positions": g["positions"] + 1}
    )


def _gradients() -> Iterator[Mutant]:
    def constant_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
        wide = x.to(accumulation(x.dtype))
        y = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps).detach()
        return (y if weight is None else weight * y).to(x.dtype)

    def halved(x: Tensor, w: Tensor, scale: Tensor | None, format: str, wide: bool) -> Tensor:
        half: Tensor = linear_(x, w, scale, format, wide)
        return half / 2 + (half / 2).detach()

    linear_, rotary_ = linear.reference, rotary.reference
    yield differentiated(rms_norm, "constant_norm", "the norm is held constant: its gradient is missing", constant_norm)
    yield differentiated(linear, "half_the_gradient", "gradients are half as large", halved)
    yield differentiated(
        rotary, "turns_forward", "the gradient is rotated forward, not back",
        lambda x, cos, sin, inverse: rotary_(x, cos, sin, not inverse),
    )  # fmt: skip
