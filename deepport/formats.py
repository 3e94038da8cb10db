"""Number formats of quantised tensors: data + scale + format.

A quantised tensor crosses an operator as `(data, scale, format)`. `format` names the element and the block that shares a
scale, `rows x columns` over the last two dimensions:

| format | data | scale |
|---|---|---|
| `plain` | the values themselves, any float dtype | none |
| `fp8_e4m3:RxC` | float8_e4m3fn (OCP: bias 7, largest 448) | one per block, UE8M0 (a power of two) or float32 |
| `fp8_e4m3fnuz:RxC` | float8_e4m3fnuz (bias 8, largest 240): what gfx942 computes; not the OCP format | the same |
| `mxfp4` | int8, two e2m1 values a byte, low nibble first (OCP MX v1.0, section 5.3.3) | UE8M0, one per 32 columns |
| `int8:row`, `int8:channel` | int8, symmetric | float32 per row `[N, 1]`, or per column `[1, K]` |

DeepSeek-V4 uses `fp8_e4m3:128x128` for dense layers, `mxfp4` for experts and `fp8_e4m3:1x32` for Engram tables.
"""

import math
import re
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

PLAIN = "plain"
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""The magnitudes of FP4 e2m1 by code; bit 3 is the sign."""

_ELEMENTS = {
    "fp8_e4m3": (torch.float8_e4m3fn, 448.0),
    "fp8_e4m3fnuz": (torch.float8_e4m3fnuz, 240.0),
    "mxfp4": (torch.int8, 6.0),
    "int8": (torch.int8, 127.0),
}


def accumulation(dtype: torch.dtype) -> torch.dtype:
    """The dtype that references and states of a model in `dtype` compute in: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


@dataclass(frozen=True)
class Format:
    """A parsed format. A block of 0 rows or columns spans the whole dimension."""

    name: str
    element: str
    rows: int
    columns: int

    @property
    def dtype(self) -> torch.dtype:
        """Storage dtype of the data."""
        return _ELEMENTS[self.element][0]

    @property
    def largest(self) -> float:
        """The largest finite magnitude of an element."""
        return _ELEMENTS[self.element][1]

    @property
    def packing(self) -> int:
        """Values in one stored element."""
        return 2 if self.element == "mxfp4" else 1

    def scale_dtype(self, power_of_two: bool) -> torch.dtype:
        """MXFP4 scales are UE8M0 and int8 scales float32; FP8 has either."""
        by_choice = power_of_two if self.element.startswith("fp8") else self.element == "mxfp4"
        return torch.float8_e8m0fnu if by_choice else torch.float32

    def scale_shape(self, rows: int, columns: int) -> tuple[int, int]:
        """Shape of the scale of a `[rows, columns]` matrix."""
        return -(-rows // (self.rows or max(rows, 1))), -(-columns // (self.columns or max(columns, 1)))


@lru_cache
def parse(name: str) -> Format:
    """The format called `name`; ValueError where there is none."""
    if name == "mxfp4":
        return Format(name, "mxfp4", 1, 32)
    if name in ("int8:row", "int8:channel"):
        return Format(name, "int8", *((1, 0) if name == "int8:row" else (0, 1)))
    if match := re.fullmatch(r"(fp8_e4m3|fp8_e4m3fnuz):([1-9]\d*)x([1-9]\d*)", name):
        return Format(name, match[1], int(match[2]), int(match[3]))
    raise ValueError(
        f"no number format is called {name!r}; there are: plain, fp8_e4m3:RxC, fp8_e4m3fnuz:RxC, mxfp4, int8:row, int8:channel"
    )


def check(data: Tensor, scale: Tensor | None, format: str) -> None:
    """Refuse data and scale that cannot be a tensor of this format."""
    if format == PLAIN:
        if scale is not None:
            raise ValueError("a plain tensor has no scale")
        return
    found = parse(format)
    if data.dtype != found.dtype:
        raise ValueError(f"{format} data is {found.dtype}, not {data.dtype}")
    if scale is None:
        raise ValueError(f"{format} needs a scale")
    rows, columns = data.shape[-2], data.shape[-1] * found.packing
    expected = (*data.shape[:-2], *found.scale_shape(rows, columns))
    if tuple(scale.shape) != expected:
        raise ValueError(f"{format} data {tuple(data.shape)} needs a scale {expected}, not {tuple(scale.shape)}")


def decode(data: Tensor, scale: Tensor | None, format: str, dtype: torch.dtype) -> Tensor:
    """The values `element * scale` in `dtype`, computed in at least float32 and rounded once."""
    if format == PLAIN:
        return data.to(dtype)
    check(data, scale, format)
    assert scale is not None  # check() has refused None
    wide = accumulation(dtype)
    values = _unpack_e2m1(data, wide) if format == "mxfp4" else data.to(wide)
    return (values * _spread(scale.to(wide), parse(format), values.shape)).to(dtype)


def encode(x: Tensor, format: str, power_of_two: bool = True) -> tuple[Tensor, Tensor]:
    """Data and scale of `x [..., N, K]`, each block scaled by the least scale under which its values are in range.

    FP8's scale is UE8M0 (float8_e8m0fnu) with `power_of_two`, else float32. Elements round to nearest, ties to even. ValueError
    where a value is not finite, and where `format` packs two values a byte and K is odd.
    """
    found = parse(format)
    if x.shape[-1] % found.packing:
        raise ValueError(f"{format} packs two values a byte; {x.shape[-1]} columns is odd")
    wide = x.to(accumulation(x.dtype))
    amax = _block_amax(wide, found)
    if not amax.isfinite().all():
        raise ValueError(f"{format}: a value is not finite; no scale brings it into range")
    scale = _scale(amax, found.largest, found.scale_dtype(power_of_two))
    scaled = (wide / _spread(scale.to(wide.dtype), found, wide.shape)).clamp(-found.largest, found.largest)
    if found.element == "mxfp4":
        return _pack_e2m1(scaled), scale
    return (scaled.round().to(found.dtype) if found.element == "int8" else _to_float8(scaled, found.dtype)), scale


def _block_amax(x: Tensor, format: Format) -> Tensor:
    rows, columns = x.shape[-2:]
    height, width = format.rows or max(rows, 1), format.columns or max(columns, 1)
    down, across = format.scale_shape(rows, columns)
    padded = torch.nn.functional.pad(x.abs(), (0, across * width - columns, 0, down * height - rows))
    blocks: Tensor = padded.unflatten(-2, (down, height)).unflatten(-1, (across, width))
    return blocks.amax((-3, -1))


def _scale(amax: Tensor, largest: float, dtype: torch.dtype) -> Tensor:
    if dtype == torch.float32:
        ratio = torch.where(amax > 0, amax / largest, 1.0).to(torch.float32)
        return ratio.clamp(min=torch.finfo(torch.float32).tiny)  # a scale of 0 would make NaN of the block's zeros
    # amax = m 2^e and largest = n 2^f: the least power of two is 2^(e - f), or twice that. Exact, as a quotient is not.
    mantissa, exponent = _frexp(amax)
    bound, shift = math.frexp(largest)
    least = (exponent - shift + (mantissa > bound).int()).clamp(-127, 127)
    return torch.exp2(torch.where(amax > 0, least, 0).to(torch.float32)).to(torch.float8_e8m0fnu)


def _frexp(x: Tensor) -> tuple[Tensor, Tensor]:
    """torch.frexp of |x|, from its bits: not every device has it. Denormals get an exponent below all others."""
    whole, width, top = (torch.int64, 52, 0x7FF) if x.dtype == torch.float64 else (torch.int32, 23, 0xFF)
    bits, half = x.view(whole), top // 2 - 1  # the exponent's field in [1/2, 1)
    mantissa = ((bits & (2**width - 1)) | (half << width)).view(x.dtype)
    return mantissa, ((bits >> width) & top) - half


def _to_float8(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x rounded once: torch's cast from float64 rounds to float32 first, which can make a tie of what was none."""
    if x.dtype == torch.float64:
        finest = -9 if dtype == torch.float8_e4m3fn else -10  # the exponent of the least value above 0
        step = torch.exp2(_frexp(x)[1].sub(4).clamp(min=finest).double())
        x = (x / step).round() * step
    return x.to(dtype)


def _spread(scale: Tensor, format: Format, shape: torch.Size) -> Tensor:
    """The scale of every element, by broadcasting where a block is one or all of a dimension."""
    for dim, block in ((-2, format.rows), (-1, format.columns)):
        if block > 1:
            scale = scale.repeat_interleave(block, dim).narrow(dim, 0, shape[dim])
    return scale


def _unpack_e2m1(data: Tensor, dtype: torch.dtype) -> Tensor:
    table = torch.tensor([*E2M1, *(-v for v in E2M1)], dtype=dtype, device=data.device)
    codes = data.view(torch.uint8)
    return table[torch.stack((codes & 15, codes >> 4), -1).flatten(-2).int()]


def _pack_e2m1(x: Tensor) -> Tensor:
    magnitudes = torch.tensor(E2M1, dtype=x.dtype, device=x.device)
    middles = (magnitudes[:-1] + magnitudes[1:]) / 2
    below = torch.bucketize(x.abs(), middles)
    tied = torch.bucketize(x.abs(), middles, right=True) != below
    codes = below + (tied & (below % 2 == 1)) + 8 * torch.signbit(x)
    low, high = codes.to(torch.uint8).unflatten(-1, (-1, 2)).unbind(-1)
    packed: Tensor = low | (high << 4)
    return packed.view(torch.int8)
