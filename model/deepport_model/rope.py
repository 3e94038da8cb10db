"""Rotary embedding: inverse frequencies, plain and YaRN-scaled."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deepport_model.config import Config, Yarn


def inverse_frequencies(config: Config, compressed: bool) -> Tensor:
    """`theta^(-2i/d)`, i < d/2, in float32, as the model was trained: by YaRN for layers that compress, plain otherwise.

    On the CPU also while a model is built on meta: they come from the configuration, not from a checkpoint.
    """
    theta = config.compress_rope_theta if compressed else config.rope_theta
    width = config.qk_rope_head_dim
    plain = 1.0 / theta ** (torch.arange(0, width, 2, dtype=torch.float32, device="cpu") / width)
    return _yarn(plain, theta, config.yarn) if compressed and config.yarn else plain


def _yarn(plain: Tensor, theta: float, yarn: Yarn) -> Tensor:
    """Slow frequencies divided by the factor, fast ones kept, a linear ramp between (arXiv 2309.00071, section 3.2)."""
    width = 2 * len(plain)

    def dimension(rotations: float) -> float:
        """The channel that turns this often over the original context."""
        length = yarn.original_max_position_embeddings
        return width * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(dimension(yarn.beta_fast)), 0)
    high = min(math.ceil(dimension(yarn.beta_slow)), width - 1)
    ramp = (torch.arange(len(plain), dtype=torch.float32, device=plain.device) - low) / max(high - low, 0.001)
    slow = ramp.clamp(0, 1)
    return plain / yarn.factor * slow + plain * (1 - slow)
