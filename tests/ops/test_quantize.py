"""quantize and dequantize against transformers' dequantisation, bit patterns decoded by hand, and exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.compare import draw, same_bits
from torch import Tensor
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

from deepport import formats, ops

E4M3 = {"fp8_e4m3": (torch.float8_e4m3fn, 7, 448), "fp8_e4m3fnuz": (torch.float8_e4m3fnuz, 8, 240)}
E2M1 = (0, 0.5, 1, 1.5, 2, 3, 4, 6)
FORMATS = (
    "fp8_e4m3:128x128",
    "fp8_e4m3:32x32",
    "fp8_e4m3:1x32",
    "fp8_e4m3fnuz:128x128",
    "mxfp4",
    "int8:row",
    "int8:channel",
)
BYTES = torch.arange(256, dtype=torch.uint8)


def e4m3(byte: int, bias: int) -> float:
    """The value of eight bits: 1 sign, 4 exponent, 3 mantissa."""
    if (bias == 7 and byte & 127 == 127) or (bias == 8 and byte == 128):
        return math.nan
    exponent, mantissa = byte >> 3 & 15, byte & 7
    magnitude = (1 + mantissa / 8) * 2.0 ** (exponent - bias) if exponent else mantissa / 8 * 2.0 ** (1 - bias)
    return -magnitude if byte & 128 else magnitude


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("element", E4M3)
def test_all_bytes_of_fp8(element: str, dtype: torch.dtype) -> None:
    storage, bias, largest = E4M3[element]
    decoded = ops.dequantize(BYTES.view(storage)[None], torch.ones(1, 8), f"{element}:1x32", dtype)
    expected = torch.tensor([[e4m3(b, bias) for b in range(256)]], dtype=dtype)
    expected[0, 128] = torch.nan if bias == 8 else -0.0
    assert torch.equal(decoded.isnan(), expected.isnan())
    assert same_bits(decoded.nan_to_num(), expected.nan_to_num())
    assert float(decoded.nan_to_num().max()) == largest


def test_fnuz_is_never_ocp() -> None:
    """The same bytes mean half, and neither format takes the other's data."""
    scale = torch.ones(1, 4)
    bits = torch.arange(1, 127, dtype=torch.uint8)[None]
    ocp = ops.dequantize(bits.view(torch.float8_e4m3fn), scale, "fp8_e4m3:1x32", torch.float32)
    fnuz = ops.dequantize(bits.view(torch.float8_e4m3fnuz), scale, "fp8_e4m3fnuz:1x32", torch.float32)
    assert torch.equal(ocp, 2 * fnuz)
    with pytest.raises(ValueError, match=r"fp8_e4m3:1x32 data is torch\.float8_e4m3fn, not torch\.float8_e4m3fnuz"):
        ops.dequantize(bits.view(torch.float8_e4m3fnuz), scale, "fp8_e4m3:1x32", torch.float32)


def test_all_bytes_of_mxfp4() -> None:
    """Two values a byte, the low nibble first; bit 3 is the sign."""
    decoded = ops.dequantize(BYTES.view(torch.int8)[None], torch.ones(1, 16), "mxfp4", torch.float32)[0]
    for byte in range(256):
        for i, code in enumerate((byte & 15, byte >> 4)):
            expected = E2M1[code & 7] * (-1 if code & 8 else 1)
            assert float(decoded[2 * byte + i]) == expected
            assert math.copysign(1, float(decoded[2 * byte + i])) == (-1 if code & 8 else 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_bytes_of_ue8m0(dtype: torch.dtype) -> None:
    """2^(byte - 127), the smallest of which is denormal in float32; 255 is NaN."""
    data = torch.ones(256, 1).to(torch.float8_e4m3fn)
    decoded = ops.dequantize(data, BYTES.view(torch.float8_e8m0fnu)[:, None], "fp8_e4m3:1x32", dtype)
    assert decoded[:255, 0].tolist() == [2.0 ** (b - 127) for b in range(255)]
    assert decoded[255].isnan().all()


@pytest.mark.parametrize(
    ("format", "shape"), [("fp8_e4m3:128x128", (256, 384)), ("fp8_e4m3:32x32", (2, 64, 96)), ("mxfp4", (3, 40, 64))]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dequantize_is_transformers(format: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    data, scale = ops.quantize(draw(0, *shape, scale=5.0).float(), format)
    dequantiser: Any = Fp8Dequantize
    oracle = dequantiser(None)._dequantize_one(data, scale.view(torch.uint8), dtype)
    assert same_bits(ops.dequantize(data, scale, format, dtype), oracle)


# Rounding


def nearest_even(x: Fraction, grid: list[float]) -> int:
    """Index of the nearest grid value, ties to the even index."""
    best = min(abs(x - Fraction(v)) for v in grid)
    return min((i for i, v in enumerate(grid) if abs(x - Fraction(v)) == best), key=lambda i: i % 2)


def between(grid: list[float], dtype: torch.dtype) -> Tensor:
    """Grid values, the middles between them, and the neighbours of all of these in dtype."""
    points = torch.tensor([*grid, *((a + b) / 2 for a, b in pairwise(grid))], dtype=dtype)
    infinity = torch.tensor(torch.inf, dtype=dtype)
    return torch.cat((points, points.nextafter(infinity), points.nextafter(-infinity).abs())).clamp(max=grid[-1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_mxfp4_rounds_to_nearest_even(sign: float, dtype: torch.dtype) -> None:
    points = between(list(E2M1), dtype)
    x = torch.zeros(len(points), 32, dtype=dtype)
    x[:, 0], x[:, 1] = sign * points, 6.0  # the scale is 1
    data, scale = ops.quantize(x, "mxfp4")
    assert (scale.float() == 1).all()
    codes = [int(b) & 15 for b in data[:, 0].view(torch.uint8)]
    for point, code in zip(points.tolist(), codes, strict=True):
        assert code & 7 == nearest_even(Fraction(point), list(E2M1))
        assert bool(code & 8) == (math.copysign(1, sign) < 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("element", E4M3)
def test_fp8_rounds_once_to_nearest_even(element: str, dtype: torch.dtype) -> None:
    """From float64 too, where torch's cast rounds to float32 first."""
    storage, bias, largest = E4M3[element]
    grid = [e4m3(b, bias) for b in range(127 if bias == 7 else 128)]
    points = between(grid, dtype)
    x = torch.stack((points, torch.full_like(points, largest)), 1)
    data, scale = ops.quantize(x, f"{element}:1x32")
    assert (scale.float() == 1).all() and data.dtype == storage
    assert data[:, 0].view(torch.uint8).tolist() == [nearest_even(Fraction(p), grid) for p in points.tolist()]
    if dtype == torch.float32:
        assert same_bits(data, x.to(storage))


def test_int8_rounds_to_nearest_even() -> None:
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, 126.5, -127.0]])
    data, scale = ops.quantize(x, "int8:row")
    assert scale.tolist() == [[1.0]] and data.tolist() == [[127, 0, 2, 2, 0, -2, 126, -127]]


# Scales

LARGEST = {"fp8_e4m3:1x32": 448, "fp8_e4m3fnuz:1x32": 240, "mxfp4": 6}
magnitudes = st.one_of(
    st.floats(0, width=32, allow_infinity=False, allow_nan=False),
    st.builds(
        lambda f, e: float(np.float32(f * 2.0**e)), st.sampled_from([448, 240, 6, 1, 449, 6.5]), st.integers(-148, 118)
    ),
)


@settings(deadline=None, max_examples=150)
@given(amax=magnitudes, format=st.sampled_from(sorted(LARGEST)), step=st.sampled_from([-1, 0, 1]))
def test_ue8m0_scale_is_the_least_power_of_two(amax: float, format: str, step: int) -> None:
    """The least 2^e, -127 <= e <= 127, with amax <= largest * 2^e; 1 for a block of zeros."""
    if step and abs(amax) < np.finfo(np.float32).max:
        amax = float(np.nextafter(np.float32(amax), np.float32(step * np.inf)))
    amax = abs(amax)
    x = torch.zeros(1, 32)
    x[0, 3] = -amax
    exponent = int(ops.quantize(x, format)[1].view(torch.uint8)) - 127
    if amax == 0:
        assert exponent == 0
        return
    fits = [e for e in range(-127, 128) if Fraction(amax) <= LARGEST[format] * Fraction(2) ** e]
    assert exponent == fits[0]


@settings(deadline=None, max_examples=60)
@given(
    values=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=2, max_size=40).map(
        lambda v: v[: len(v) // 2 * 2]
    ),
    exponent=st.integers(-160, 0),
    format=st.sampled_from([*FORMATS, "fp8_e4m3:3x5"]),
    power_of_two=st.booleans(),
)
def test_a_round_trip_is_within_half_a_step(
    values: list[float], exponent: int, format: str, power_of_two: bool
) -> None:
    """Finite, and no further from x than half a step of the element, down to denormals and zeros."""
    x = (torch.tensor(values, dtype=torch.float64) * 2.0**exponent).float()[None].expand(3, -1).contiguous()
    data, scale = ops.quantize(x, format, power_of_two)
    back = ops.dequantize(data, scale, format, torch.float64)
    assert back.isfinite().all()
    smallest = {"mxfp4": 0.5, "int8:row": 1, "int8:channel": 1}.get(format, 2.0**-9)
    relative_step = 0 if format.startswith("int8") else 0.25 if format == "mxfp4" else 2.0**-4
    spread = scale.double().abs().max()
    bound = torch.maximum(x.double().abs() * relative_step, spread * smallest / 2)
    assert bool(((back - x.double()).abs() <= bound * (1 + 1e-6)).all())


@pytest.mark.parametrize("format", ["fp8_e4m3:1x32", "int8:row"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tiny_blocks_with_float32_scales(format: str, dtype: torch.dtype) -> None:
    """Where amax / largest is no normal float32, the scale stops there: 0 would make NaN of the block's zeros."""
    tiny = 1e-44 if dtype == torch.float32 else 1e-200
    x = torch.tensor([[tiny, 0.0, 0.0, -tiny]], dtype=dtype)
    data, scale = ops.quantize(x, format, power_of_two=False)
    assert float(scale) >= torch.finfo(torch.float32).tiny
    assert torch.equal(ops.dequantize(data, scale, format, torch.float32), torch.zeros(1, 4))


@pytest.mark.parametrize("format", ["fp8_e4m3:128x128", "fp8_e4m3:1x32", "mxfp4", "int8:row", "int8:channel"])
def test_every_block_has_its_own_scale(format: str) -> None:
    """Ragged: neither rows nor columns are multiples of the block. int8 is exact arithmetic per row or column."""
    rows, columns = 130, 162
    x = draw(1, 2, rows, columns).float() * 2.0 ** torch.randint(-6, 6, (2, rows, columns))
    data, scale = ops.quantize(x, format)
    height, width = {
        "int8:row": (1, columns),
        "int8:channel": (rows, 1),
        "mxfp4": (1, 32),
        "fp8_e4m3:1x32": (1, 32),
    }.get(format, (128, 128))
    down, across = -(-rows // height), -(-columns // width)
    assert scale.shape == (2, down, across)
    back = ops.dequantize(data, scale, format, torch.float32)
    for i, j in {(0, 0), (down - 1, 0), (0, across - 1), (down - 1, across - 1), (down // 2, across // 2)}:
        block = (slice(1, 2), slice(i * height, (i + 1) * height), slice(j * width, (j + 1) * width))
        alone, own = ops.quantize(x[block].contiguous(), format)
        assert torch.equal(own.float().flatten(), scale[1:, i, j].float())
        assert same_bits(ops.dequantize(alone, own, format, torch.float32), back[block])
    if format.startswith("int8"):
        amax = x.abs().amax(-1 if format == "int8:row" else -2, keepdim=True)
        assert torch.equal(scale, amax / 127)
        assert torch.equal(data.float(), (x / scale).round())


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("shape", [(0, 64), (3, 0), (0, 0)])
def test_nothing_to_quantise(format: str, shape: tuple[int, int]) -> None:
    data, scale = ops.quantize(torch.zeros(shape), format)
    assert ops.dequantize(data, scale, format, torch.float32).shape == shape


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"^no number format is called 'fp8:1x32'; there are: plain, "):
        formats.parse("fp8:1x32")
    with pytest.raises(ValueError, match=r"^mxfp4 packs two values a byte; 33 columns is odd$"):
        ops.quantize(torch.zeros(2, 33), "mxfp4")
    data, scale = ops.quantize(torch.zeros(40, 64), "fp8_e4m3:32x32")
    with pytest.raises(ValueError, match=r"data \(40, 64\) needs a scale \(2, 2\), not \(2, 1\)"):
        ops.dequantize(data, scale[:, :1], "fp8_e4m3:32x32", torch.float32)
    with pytest.raises(ValueError, match="int8:row needs a scale"):
        formats.check(data.view(torch.int8), None, "int8:row")
    with pytest.raises(ValueError, match="a plain tensor has no scale"):
        formats.check(torch.zeros(2, 2), scale, formats.PLAIN)


@pytest.mark.parametrize("format", ["fp8_e4m3:1x32", "mxfp4", "int8:row"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(format: str, value: float) -> None:
    x = torch.zeros(2, 64)
    x[1, 5] = value
    with pytest.raises(ValueError, match="a value is not finite"):
        ops.quantize(x, format)


def test_mxfp4_scales_are_powers_of_two_whatever_was_asked() -> None:
    _, scale = ops.quantize(torch.ones(2, 64), "mxfp4", power_of_two=False)
    assert scale.dtype == torch.float8_e8m0fnu
