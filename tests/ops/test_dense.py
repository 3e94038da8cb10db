"""linear, block_linear, rms_norm and rotary against torch, transformers and sums written out."""

from __future__ import annotations

import math

import pytest
import torch
from oracles.compare import DOUBLE, draw, relative, same_bits
from torch import Tensor
from torch.nn import functional
from transformers.models.deepseek_v4 import DeepseekV4Config
from transformers.models.deepseek_v4.modeling_deepseek_v4 import (
    DeepseekV4GroupedLinear,
    DeepseekV4RMSNorm,
    DeepseekV4RotaryEmbedding,
    DeepseekV4UnweightedRMSNorm,
    apply_rotary_pos_emb,
)

from deepport import formats, ops

BF16_HALF_ULP = 2.0**-8
"""The relative error of one rounding to bfloat16, which has 8 significant bits."""


def dot(x: Tensor, y: Tensor) -> float:
    return math.fsum(a * b for a, b in zip(x.tolist(), y.tolist(), strict=True))


def naive_linear(x: Tensor, w: Tensor) -> Tensor:
    return torch.tensor([[dot(row, column) for column in w] for row in x], dtype=torch.float64)


def rounded_once(ours: Tensor, exact: Tensor, before: float) -> bool:
    """Within one rounding of `exact`, the error `before` it being that of float32."""
    return bool(((ours.double() - exact).abs() <= BF16_HALF_ULP * exact.abs() + before).all())


def test_linear_is_the_sum_of_products() -> None:
    x, w = draw(0, 5, 67), draw(1, 9, 67)
    assert relative(ops.linear(x, w), naive_linear(x, w)) < DOUBLE
    assert relative(ops.linear(x.float(), w.float()), functional.linear(x, w)) < 1e-6  # measured 1.6e-7
    assert ops.linear(x, w).dtype == torch.float64


def test_linear_rounds_once() -> None:
    """A GEMM that accumulates in bfloat16 is off by many ulp at K = 2048."""
    x, w = draw(2, 3, 2048).bfloat16(), draw(3, 33, 2048).bfloat16()
    assert rounded_once(ops.linear(x, w), naive_linear(x.double(), w.double()), before=1e-4)


def test_linear_of_any_leading_shape() -> None:
    w = draw(4, 6, 8)
    for shape in ((8,), (1, 8), (0, 8), (2, 3, 8)):
        x = draw(5, *shape)
        assert relative(ops.linear(x, w), functional.linear(x, w)) < DOUBLE


def test_wide_is_linear_that_does_not_round() -> None:
    x, w = draw(2, 3, 2048), draw(3, 33, 2048)
    narrow = ops.linear(x.bfloat16(), w.bfloat16(), wide=True)
    assert narrow.dtype == torch.float32
    assert relative(narrow, naive_linear(x.bfloat16().double(), w.bfloat16().double())) < 1e-6
    for dtype in (torch.float32, torch.float64):
        assert same_bits(ops.linear(x.to(dtype), w.to(dtype), wide=True), ops.linear(x.to(dtype), w.to(dtype)))


@pytest.mark.parametrize("format", ["fp8_e4m3:128x128", "fp8_e4m3fnuz:32x32", "mxfp4", "int8:row", "int8:channel"])
def test_quantised_weights_are_dequantised_first(format: str) -> None:
    x = draw(6, 4, 192)
    data, scale = formats.encode(draw(7, 2, 160, 192), format)
    plain = formats.decode(data, scale, format, torch.float64)
    assert same_bits(ops.linear(x, data[0], scale[0], format), ops.linear(x, plain[0]))
    grouped = torch.stack((x, x.flip(0)), 1)
    assert same_bits(ops.block_linear(grouped, data, scale, format), ops.block_linear(grouped, plain))


def test_block_linear_is_transformers_grouped_linear() -> None:
    groups, k, n = 4, 24, 7
    module = DeepseekV4GroupedLinear(k, groups * n, groups).double()
    x = draw(8, 5, groups, k)
    w = module.weight.detach().view(groups, n, k)
    assert relative(ops.block_linear(x, w), module(x)) < DOUBLE
    naive = torch.stack([naive_linear(x[:, g], w[g]) for g in range(groups)], 1)
    assert relative(ops.block_linear(x, w), naive) < DOUBLE


@pytest.mark.parametrize("weighted", [True, False])
def test_rms_norm(weighted: bool) -> None:
    x, eps = draw(9, 6, 48, scale=0.01), 1e-3  # eps matters
    weight = 1 + draw(10, 48, scale=0.3) if weighted else None
    rows = [
        [v / math.sqrt(math.fsum(u * u for u in row) / len(row) + eps) * w for v, w in zip(row, factors, strict=True)]
        for row, factors in zip(x.tolist(), [[1.0] * 48 if weight is None else weight.tolist()] * 6, strict=True)
    ]
    assert relative(ops.rms_norm(x, weight, eps), torch.tensor(rows, dtype=torch.float64)) < DOUBLE
    assert relative(ops.rms_norm(x, weight, eps), functional.rms_norm(x, (48,), weight, eps)) < DOUBLE
    module = DeepseekV4RMSNorm(48, eps) if weighted else DeepseekV4UnweightedRMSNorm(eps)
    if weight is not None:
        module.weight.data = weight.float()
    narrow = None if weight is None else weight.float()
    assert relative(ops.rms_norm(x.float(), narrow, eps), module(x.float())) < 1e-6  # measured 0


def test_rms_norm_rounds_once() -> None:
    x, weight = draw(11, 40, 64).bfloat16(), (1 + draw(12, 64, scale=0.3)).float()
    exact = functional.rms_norm(x.double(), (64,), weight.double(), 1e-6)
    assert ops.rms_norm(x, weight).dtype == torch.bfloat16
    assert rounded_once(ops.rms_norm(x, weight), exact, before=1e-6)


def angles(tokens: int, pairs: int) -> tuple[Tensor, Tensor]:
    angle = torch.arange(tokens)[:, None] * 0.7 ** torch.arange(pairs)
    return angle.cos(), angle.sin()


@pytest.mark.parametrize("heads", [None, 3])
def test_rotary_is_transformers(heads: int | None) -> None:
    cos, sin = angles(7, 4)
    x = draw(13, *(7, 24) if heads is None else (7, heads, 24)).float()
    four = x[:, None, None] if heads is None else x[:, :, None]  # [B, H, S, D] with a sequence of one
    for inverse in (False, True):
        oracle = apply_rotary_pos_emb(four, cos[:, None], -sin[:, None] if inverse else sin[:, None]).view(x.shape)
        ours = ops.rotary(x, cos, sin, inverse)
        assert same_bits(ours[..., :16], x[..., :16])
        assert relative(ours, oracle) < 1e-7  # measured 0


def test_rotary_turns_interleaved_pairs_of_the_trailing_channels() -> None:
    x = draw(14, 5, 2, 12)
    cos, sin = angles(5, 3)
    expected = x.clone()
    for t in range(5):
        for h in range(2):
            for i in range(3):
                c, s = float(cos[t, i]), float(sin[t, i])
                a, b = float(x[t, h, 6 + 2 * i]), float(x[t, h, 7 + 2 * i])
                expected[t, h, 6 + 2 * i], expected[t, h, 7 + 2 * i] = a * c - b * s, b * c + a * s
    assert relative(ops.rotary(x, cos, sin), expected) < DOUBLE


def test_rotary_inverse_is_the_inverse() -> None:
    x = draw(15, 50, 2, 12)
    angle = draw(16, 50, 3, scale=100)
    cos, sin = angle.cos(), angle.sin()
    assert relative(ops.rotary(ops.rotary(x, cos, sin), cos, sin, inverse=True), x) < DOUBLE
    assert relative(ops.rotary(x, cos, sin), x) > 0.1


@pytest.mark.parametrize("ratio", [1, 4, 128])
def test_rotary_angles_are_of_float32_products(ratio: int) -> None:
    """Against the mathematics library's cosine and sine of the product as float32 has it; no position is position 0."""
    positions = torch.tensor([0, 1, -1, 4097, 8191])
    frequencies = 10000.0 ** -torch.linspace(0, 1, 32)
    cos, sin = ops.rotary_angles(positions, frequencies, ratio)
    for t, position in enumerate((0, 1, 0, 4097, 8191)):
        angle = (torch.tensor(float(position * ratio)) * frequencies).tolist()
        for r, a in enumerate(angle):
            assert abs(float(cos[t, r]) - math.cos(a)) < 2.0**-24
            assert abs(float(sin[t, r]) - math.sin(a)) < 2.0**-24


def test_rotary_angles_are_transformers() -> None:
    theirs = DeepseekV4RotaryEmbedding(DeepseekV4Config())
    positions = torch.arange(0, 4096, 7)
    cos, sin = theirs(torch.zeros(1), positions[None], layer_type="main")
    ours = ops.rotary_angles(positions, theirs.main_inv_freq)
    for mine, their in zip(ours, (cos[0], sin[0]), strict=True):
        assert (mine - their).abs().max() < 2.0**-23


def test_gradients_are_the_slopes() -> None:
    x, w = draw(17, 3, 8).requires_grad_(), draw(18, 4, 8).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: ops.linear(a, b), (x, w))
    assert torch.autograd.gradcheck(lambda a, b: ops.rms_norm(a, b, 1e-3), (x, draw(19, 8).requires_grad_()))
    grouped, blocks = draw(20, 3, 2, 4).requires_grad_(), draw(21, 2, 5, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: ops.block_linear(a, b), (grouped, blocks))
    assert torch.autograd.gradcheck(lambda a: ops.rotary(a, *angles(3, 3), inverse=True), (x,))
