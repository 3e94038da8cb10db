"""Rotary angles: cosines and sines that every chip rounds alike.

Angles reach 10^6 radians. NVIDIA's library reduces such a one in local memory, and each library errs in a way of its own; in
float64 it takes three operations, and there are few angles. An Ascend has no float64, and its compiler refuses.
"""

import triton
import triton.language as tl
from torch import Tensor

from deepport.fit import calls
from deepport.kernel import Kernel, Signature, Support
from deepport_triton.launch import launch

ANGLES = 256
"""That a program turns."""


@triton.jit
def _cosine_and_sine(angle):
    """Of float32 angles, float64: Taylor series within an eighth of a turn, then off by less than 2^-32."""
    wide = angle.to(tl.float64)
    quarters = tl.floor(wide * 0.6366197723675814 + 0.5)
    # pi / 2 in two parts. The first has 33 bits: 2^20 quarters times it are exact.
    x = (wide - quarters * 1.5707963267341256) - quarters * 6.077100506506192e-11
    square = x * x
    cos = 1.0 + square * (-1 / 2 + square * (1 / 24 + square * (-1 / 720 + square * (1 / 40320 - square / 3628800))))
    sin = -1 / 6 + square * (1 / 120 + square * (-1 / 5040 + square * (1 / 362880 - square / 39916800)))
    sin = x + x * square * sin
    quarter = quarters.to(tl.int64) & 3
    across, below = (quarter & 1) == 1, (quarter & 2) == 2
    found_cos, found_sin = tl.where(across, sin, cos), tl.where(across, cos, sin)
    return tl.where(across != below, -found_cos, found_cos), tl.where(below, -found_sin, found_sin)


@triton.jit
def _angles_block(positions, frequencies, cos, sin, count, pairs, ratio, block: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    there = at < count
    position = tl.load(positions + at // pairs, mask=there, other=0)
    place = (tl.where(position < 0, 0, position) * ratio).to(tl.float32)
    found_cos, found_sin = _cosine_and_sine(place * tl.load(frequencies + at % pairs, mask=there, other=0.0))
    tl.store(cos + at, found_cos.to(tl.float32), mask=there)
    tl.store(sin + at, found_sin.to(tl.float32), mask=there)


def rotary_angles(positions: Tensor, frequencies: Tensor, ratio: int = 1) -> tuple[Tensor, Tensor]:
    tokens, pairs = positions.shape[0], frequencies.shape[0]
    cos, sin = (frequencies.new_empty((tokens, pairs)) for _ in range(2))
    given = (positions.contiguous(), frequencies.contiguous(), cos, sin, tokens * pairs, pairs, ratio)
    launch(_angles_block, (triton.cdiv(tokens * pairs, ANGLES),), *given, block=ANGLES)
    return cos, sin


def _rotary_angles(signature: Signature) -> Support:
    return calls.rotary_angles(signature)


KERNELS = (Kernel("rotary_angles", "triton", rotary_angles, _rotary_angles),)
