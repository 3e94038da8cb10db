"""Quantised arguments misread: the same faults in every operator that takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from deepport.conformance.mutants.mutant import Given, Mutant, asked
from deepport.op import Operator

Quantised = tuple[Tensor, Tensor | None]


def misread(operator: Operator[..., Any], data: str, scale: str, faults: tuple[str, ...] = ()) -> Iterator[Mutant]:
    """Mutants that misread the quantised argument `data` with its `scale`; those named in `faults`, or all."""

    def change(fault: Callable[[Tensor, Tensor, str], Quantised]) -> Callable[[Given], Given]:
        def apply(given: Given) -> Given:
            if given[scale] is None:
                return {}
            read = fault(given[data], given[scale], given["format"])
            return dict(zip((data, scale), read, strict=True))

        return apply

    for name, (told, fault) in _MISREAD.items():
        if not faults or name in faults:
            yield asked(operator, name, told, change(fault))


def _without_scale(data: Tensor, scale: Tensor, format: str) -> Quantised:
    return data, torch.ones_like(scale, dtype=torch.float32)


def _next_exponent(data: Tensor, scale: Tensor, format: str) -> Quantised:
    return data, scale if scale.dtype == torch.float32 else scale.float() * 2


def _transposed(data: Tensor, scale: Tensor, format: str) -> Quantised:
    flat = scale.float().transpose(-2, -1).reshape(scale.shape)
    return data, flat if scale.shape[-1] > 1 < scale.shape[-2] else scale


def _as_ocp(data: Tensor, scale: Tensor, format: str) -> Quantised:
    """What an FNUZ byte means in OCP's format is twice as much; the reference, told FNUZ, halves it."""
    return data, scale.float() * 2 if format.startswith("fp8_e4m3fnuz") else scale


def _swapped(data: Tensor, scale: Tensor, format: str) -> Quantised:
    return (swap_nibbles(data) if format == "mxfp4" else data), scale


def _split(data: Tensor, scale: Tensor, format: str) -> Quantised:
    return (split_nibbles(data) if format == "mxfp4" else data), scale


def _next_block(data: Tensor, scale: Tensor, format: str) -> Quantised:
    return data, scale.float().roll(1, -1) if scale.shape[-1] > 1 else scale.float().roll(1, -2)


def swap_nibbles(data: Tensor) -> Tensor:
    """High nibble first."""
    codes = data.view(torch.uint8)
    return ((codes >> 4) | (codes << 4)).view(torch.int8)


def split_nibbles(data: Tensor) -> Tensor:
    """Blocks of 32 whose first half is all low nibbles: element j beside element j + 16, as GGML has it."""
    codes = data.view(torch.uint8)
    values = torch.stack((codes & 15, codes >> 4), -1).flatten(-2)
    low, high = values.unflatten(-1, (-1, 16, 2)).unbind(-1)
    mixed = torch.cat((low, high), -1).flatten(-2)
    first, second = mixed.unflatten(-1, (-1, 2)).unbind(-1)
    packed: Tensor = first | (second << 4)
    return packed.view(torch.int8)


_MISREAD: dict[str, tuple[str, Callable[[Tensor, Tensor, str], Quantised]]] = {
    "ignores_the_scale": ("quantised values are not multiplied by their scale", _without_scale),
    "exponent_off_by_one": ("UE8M0 scales are read with a bias of 126", _next_exponent),
    "transposes_scales": ("the scale of block (i, j) is read at (j, i)", _transposed),
    "fnuz_as_ocp": ("FP8 FNUZ is read as OCP, twice as large", _as_ocp),
    "swaps_nibbles": ("MXFP4's high nibble is read first", _swapped),
    "splits_nibbles": ("MXFP4 is read in GGML's order, element j beside j + 16", _split),
    "scale_of_the_next_block": ("each block is multiplied by its neighbour's scale", _next_block),
}
