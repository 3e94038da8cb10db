"""Mutants of the conversions between number formats."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from deepport import formats
from deepport.conformance.mutants.formats import misread, split_nibbles, swap_nibbles
from deepport.conformance.mutants.mutant import Given, Mutant, answered, asked, written
from deepport.ops import dequantize, quantize


def mutants() -> Iterator[Mutant]:
    yield answered(quantize, "swaps_nibbles", "MXFP4's first value goes to the high nibble", _swapped)
    yield answered(quantize, "splits_nibbles", "MXFP4 is written in GGML's order", _split)
    yield answered(quantize, "stores_fnuz_as_ocp", "FNUZ data is encoded with OCP's bias", _ocp_bytes)
    yield written(
        quantize,
        "exponent_of_the_quotient",
        "UE8M0 is floor(log2(amax / largest)): the largest values saturate",
        _floor,
    )
    yield written(quantize, "truncates_to_int8", "int8 is cut off, not rounded", _cut)
    yield written(quantize, "rounds_half_away", "ties round away from zero, not to even", _half_away)
    yield asked(quantize, "first_block_only", "all rows have the first row's largest value", _copied_block)
    yield from misread(dequantize, "data", "scale")
    yield asked(
        dequantize, "scale_in_bfloat16", "the scale is rounded to bfloat16",
        lambda g: {"scale": g["scale"].to(torch.bfloat16).float()},
    )  # fmt: skip
    yield written(dequantize, "rounds_towards_zero", "the product is cut off, not rounded", _cut_product)


def _swapped(results: list[Tensor], given: Given) -> Any:
    data, scale = results
    return [swap_nibbles(data) if given["format"] == "mxfp4" else data, scale]


def _split(results: list[Tensor], given: Given) -> Any:
    data, scale = results
    return [split_nibbles(data) if given["format"] == "mxfp4" else data, scale]


def _ocp_bytes(results: list[Tensor], given: Given) -> Any:
    data, scale = results
    if not given["format"].startswith("fp8_e4m3fnuz"):
        return results
    return [data.float().to(torch.float8_e4m3fn).view(data.dtype), scale]


def _stored(x: Tensor, scale: Tensor, format: str, largest: float) -> Tensor:
    """x over a given UE8M0 scale, in range."""
    found = formats.parse(format)
    spread = formats.decode(torch.ones(x.shape).to(found.dtype), scale, format, torch.float32)
    return (x.float() / spread).clamp(-largest, largest)


def _floor(x: Tensor, format: str, power_of_two: bool) -> tuple[Tensor, Tensor]:
    data, scale = formats.encode(x, format, power_of_two)
    if scale.dtype != torch.float8_e8m0fnu or format == "mxfp4":
        return data, scale
    largest = formats.parse(format).largest
    lower = (scale.float() / 2).to(scale.dtype)
    return _stored(x, lower, format, largest).to(data.dtype), lower


def _cut(x: Tensor, format: str, power_of_two: bool) -> tuple[Tensor, Tensor]:
    data, scale = formats.encode(x, format, power_of_two)
    return (_quotients(x, scale, format).trunc().to(data.dtype) if format.startswith("int8") else data), scale


def _half_away(x: Tensor, format: str, power_of_two: bool) -> tuple[Tensor, Tensor]:
    data, scale = formats.encode(x, format, power_of_two)
    if format.startswith("int8"):
        wide = _quotients(x, scale, format)
        return ((wide.abs() + 0.5).floor() * wide.sign()).clamp(-127, 127).to(data.dtype), scale
    if format == "mxfp4":
        return data, scale
    wide = _stored(x, scale, format, formats.parse(format).largest)
    step = torch.exp2(torch.frexp(wide).exponent.sub(4).clamp(min=-9).float())
    return ((wide.abs() / step + 0.5).floor() * step * wide.sign()).to(data.dtype), scale


def _quotients(x: Tensor, scale: Tensor, format: str) -> Tensor:
    return (x.float() / scale).clamp(-127, 127)


def _copied_block(given: Given) -> Given:
    """A value as large as the first row's largest enters every row: a reduction over too much."""
    x = given["x"].clone()
    x[..., :, 0] = x.abs().amax() if x.numel() else 0
    return {"x": x}


def _cut_product(data: Tensor, scale: Tensor, format: str, dtype: torch.dtype) -> Tensor:
    exact = formats.decode(data, scale, format, torch.float32)
    if dtype != torch.bfloat16:
        return exact.to(dtype)
    return (exact.view(torch.int32) & ~0xFFFF).view(torch.float32).bfloat16()
