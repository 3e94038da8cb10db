"""Dense operators: linear layers in any number format, normalisation, rotary embedding."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor

from deepport import formats
from deepport.formats import accumulation
from deepport.op import operator
from deepport.spec import FLOATS, ROUNDED_ONCE, Case, Cost, Tolerance, case, nbytes, normal

_GEMM = Tolerance(
    "one rounding after a float32 sum; the order of the sum is free, which costs at most a few ulp of the sum"
)
_ELEMENTWISE = Tolerance(
    "float32 arithmetic and one rounding; only rsqrt and fused multiply-add may differ, by an ulp", rms=ROUNDED_ONCE
)


def _linear_cost(
    x: Tensor, w: Tensor, scale: Tensor | None = None, format: str = formats.PLAIN, wide: bool = False
) -> Cost:
    outputs = x.shape[:-1].numel() * w.shape[-2]
    size = (accumulation(x.dtype) if wide else x.dtype).itemsize
    return Cost(2.0 * outputs * x.shape[-1], nbytes(x, w, scale) + outputs * size)


def quantized(g: Generator, *shape: int, dtype: torch.dtype, format: str) -> dict[str, Any]:
    """A random weight as the arguments `w`, `scale`, `format`."""
    w = normal(g, *shape, dtype=dtype, scale=shape[-1] ** -0.5)
    data, scale = (w, None) if format == formats.PLAIN else formats.encode(w, format)
    return {"w": data, "scale": scale, "format": format}


def linear_arguments(
    g: Generator, tkn: tuple[int, int, int], dtype: torch.dtype, format: str, wide: bool = False
) -> dict[str, Any]:
    t, k, n = tkn
    return {"x": normal(g, t, k, dtype=dtype), **quantized(g, n, k, dtype=dtype, format=format), "wide": wide}


def _linear_cases() -> Iterator[Case]:
    for tkn in ((0, 64, 32), (1, 256, 96), (7, 64, 33), (33, 256, 128)):
        for dtype in FLOATS:
            yield case(linear_arguments, tkn=tkn, dtype=dtype, format=formats.PLAIN)
    for format in ("fp8_e4m3:128x128", "fp8_e4m3:32x32", "fp8_e4m3fnuz:128x128", "mxfp4", "int8:row", "int8:channel"):
        yield case(linear_arguments, tkn=(5, 256, 160), dtype=torch.bfloat16, format=format)
    for format in (formats.PLAIN, "mxfp4"):
        yield case(linear_arguments, tkn=(5, 256, 160), dtype=torch.bfloat16, format=format, wide=True)


def _linear_fake(
    x: Tensor, w: Tensor, scale: Tensor | None = None, format: str = formats.PLAIN, wide: bool = False
) -> Tensor:
    return x.new_empty((*x.shape[:-1], w.shape[-2]), dtype=accumulation(x.dtype) if wide else x.dtype)


@operator(cost=_linear_cost, cases=_linear_cases, tolerance=_GEMM, fake=_linear_fake, differentiable=("x", "w"))
def linear(
    x: Tensor, w: Tensor, scale: Tensor | None = None, format: str = formats.PLAIN, wide: bool = False
) -> Tensor:
    """`x @ w^T`.

    x [..., K]; w [N, K] in any number format (`deepport.formats`), with its scale; returns [..., N] in x's dtype, or as it
    was summed, in float32 of bfloat16, with `wide`: for scores that would change places if they were rounded.
    Quantised weights have no gradient.
    """
    dtype = accumulation(x.dtype)
    y = torch.nn.functional.linear(x.to(dtype), formats.decode(w, scale, format, dtype))
    return y if wide else y.to(x.dtype)


def block_linear_arguments(g: Generator, tgkn: tuple[int, ...], dtype: torch.dtype, format: str) -> dict[str, Any]:
    t, groups, k, n = tgkn
    return {"x": normal(g, t, groups, k, dtype=dtype), **quantized(g, groups, n, k, dtype=dtype, format=format)}


def _block_linear_cases() -> Iterator[Case]:
    for tgkn in ((0, 2, 32, 16), (1, 4, 64, 24), (9, 2, 128, 40)):
        for dtype in FLOATS:
            yield case(block_linear_arguments, tgkn=tgkn, dtype=dtype, format=formats.PLAIN)
    yield case(block_linear_arguments, tgkn=(5, 2, 128, 128), dtype=torch.bfloat16, format="fp8_e4m3:128x128")


def _block_linear_cost(x: Tensor, w: Tensor, scale: Tensor | None = None, format: str = formats.PLAIN) -> Cost:
    outputs = x.shape[0] * w.shape[0] * w.shape[1]
    return Cost(2.0 * outputs * x.shape[-1], nbytes(x, w, scale) + outputs * x.element_size())


def _block_linear_fake(x: Tensor, w: Tensor, scale: Tensor | None = None, format: str = formats.PLAIN) -> Tensor:
    return x.new_empty((x.shape[0], w.shape[0], w.shape[1]))


@operator(
    cost=_block_linear_cost,
    cases=_block_linear_cases,
    tolerance=_GEMM,
    fake=_block_linear_fake,
    differentiable=("x", "w"),
)
def block_linear(x: Tensor, w: Tensor, scale: Tensor | None = None, format: str = formats.PLAIN) -> Tensor:
    """`y[t, g] = x[t, g] @ w[g]^T`: one matrix per group, as in V4's grouped output projection (section 2.3.1).

    x [T, G, K]; w [G, N, K] in any number format; returns [T, G, N] in x's dtype.
    """
    wide = accumulation(x.dtype)
    w = formats.decode(w, scale, format, wide)
    return torch.bmm(x.to(wide).transpose(0, 1), w.transpose(1, 2)).transpose(0, 1).to(x.dtype).contiguous()


def _rms_norm_cost(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Cost:
    return Cost(4.0 * x.numel(), 2 * nbytes(x) + nbytes(weight))


def rms_norm_arguments(g: Generator, shape: tuple[int, ...], weighted: bool, dtype: torch.dtype) -> dict[str, Any]:
    weight = 1 + normal(g, shape[-1], scale=0.1) if weighted else None
    return {"x": normal(g, *shape, dtype=dtype), "weight": weight, "eps": 1e-6}


def _rms_norm_cases() -> Iterator[Case]:
    # No row of one number: whatever it is, the answer is almost 1 or -1, and its gradient what rounding left over.
    for shape in ((0, 8), (1, 5), (3, 7), (5, 2, 64), (16, 128)):
        for weighted in (True, False):
            for dtype in FLOATS:
                yield case(rms_norm_arguments, shape=shape, weighted=weighted, dtype=dtype)


@operator(
    cost=_rms_norm_cost,
    cases=_rms_norm_cases,
    tolerance=_ELEMENTWISE,
    fake=lambda x, weight=None, eps=1e-6: x.new_empty(x.shape),
    differentiable=("x", "weight"),
)
def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """`weight * x / sqrt(mean(x^2) + eps)` over the last dimension, rounded once.

    x [..., D]; weight [D] float32, or None for 1; returns x's shape and dtype.
    """
    wide = x.to(accumulation(x.dtype))
    y = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (y if weight is None else weight * y).to(x.dtype).contiguous()


def _rotary_cost(x: Tensor, cos: Tensor, sin: Tensor, inverse: bool = False) -> Cost:
    return Cost(3.0 * x[..., 0].numel() * 2 * cos.shape[-1], 2 * nbytes(x) + nbytes(cos, sin))


def rotary_arguments(
    g: Generator, shape: tuple[int, ...], pairs: int, inverse: bool, dtype: torch.dtype
) -> dict[str, Any]:
    angle = torch.rand(shape[0], pairs, generator=g) * 1000
    return {"x": normal(g, *shape, dtype=dtype), "cos": angle.cos(), "sin": angle.sin(), "inverse": inverse}


def _rotary_cases() -> Iterator[Case]:
    for shape, pairs in (((0, 2, 8), 2), ((1, 16), 8), ((5, 3, 24), 4), ((7, 2, 64), 16)):
        for inverse in (False, True):
            for dtype in FLOATS:
                yield case(rotary_arguments, shape=shape, pairs=pairs, inverse=inverse, dtype=dtype)


@operator(
    cost=_rotary_cost,
    cases=_rotary_cases,
    tolerance=_ELEMENTWISE,
    fake=lambda x, cos, sin, inverse=False: x.new_empty(x.shape),
    differentiable=("x",),
)
def rotary(x: Tensor, cos: Tensor, sin: Tensor, inverse: bool = False) -> Tensor:
    """Rotate interleaved pairs of the *trailing* `2 R` channels: `(a, b) -> (a cos - b sin, b cos + a sin)`.

    x [T, D] or [T, H, D]; cos, sin [T, R] float32, the cosine and sine of float32(position) x float32(inverse frequency),
    as the model was trained; `inverse` rotates back (sin negated). Leading channels are copied. Returns x's shape and dtype.
    """
    wide = accumulation(x.dtype)
    cos, sin = (c.to(wide).view(c.shape[0], *[1] * (x.dim() - 2), c.shape[1]) for c in (cos, -sin if inverse else sin))
    kept, rotated = x.split((x.shape[-1] - 2 * cos.shape[-1], 2 * cos.shape[-1]), -1)
    even, odd = rotated.to(wide).unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)
    return torch.cat((kept, turned.to(x.dtype)), -1)


def rotary_angles_arguments(g: Generator, tokens: int, pairs: int, ratio: int, depth: int) -> dict[str, Any]:
    positions = torch.randint(-1, depth, (tokens,), generator=g)
    return {"positions": positions, "frequencies": 10000.0 ** -torch.linspace(0, 1, pairs), "ratio": ratio}


def _rotary_angles_cases() -> Iterator[Case]:
    for tokens, pairs, ratio, depth in (
        (0, 4, 1, 8),
        (1, 1, 1, 4096),
        (7, 32, 4, 1 << 18),
        (3, 33, 128, 1 << 13),
        (16, 32, 1, 1 << 20),
    ):
        yield case(rotary_angles_arguments, tokens=tokens, pairs=pairs, ratio=ratio, depth=depth)


def _rotary_angles_cost(positions: Tensor, frequencies: Tensor, ratio: int = 1) -> Cost:
    outputs = 2.0 * positions.shape[0] * frequencies.shape[0]
    return Cost(outputs, nbytes(positions, frequencies) + outputs * frequencies.element_size())


@operator(cost=_rotary_angles_cost, cases=_rotary_angles_cases, tolerance=_ELEMENTWISE)
def rotary_angles(positions: Tensor, frequencies: Tensor, ratio: int = 1) -> tuple[Tensor, Tensor]:
    """Cosine and sine of `float32(position * ratio) x float32(frequency)`, the angles as the model was trained.

    positions [T] int64, those below 0 ("none") as 0; frequencies [R] float32; returns two [T, R] in frequencies' dtype. The
    angle is rounded to float32 whatever that is: at position 10^6 it is off by up to 1/32 of a radian, and models know it so.
    """
    angle = (positions.clamp(min=0) * ratio).to(torch.float32)[:, None] * frequencies.to(torch.float32)
    wide = angle.to(frequencies.dtype)
    return wide.cos(), wide.sin()
