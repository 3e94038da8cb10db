"""The parts that every layer is made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deepport import formats, ops


class Linear(nn.Module):
    """`x @ weight^T` with the weight in any number format: `weight`, `scale` and `format` as in `deepport.formats`.

    The result is rounded to x's dtype, or with `wide` left as it was summed.
    """

    def __init__(self, inputs: int, outputs: int, wide: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.scale: nn.Parameter | None = None
        self.format = formats.PLAIN
        self.wide = wide

    def forward(self, x: Tensor) -> Tensor:
        return ops.linear(x, self.weight, self.scale, self.format, self.wide)


class BlockLinear(Linear):
    """One matrix per group of input channels; the weights are stacked by rows, `[groups * outputs, inputs]`."""

    def __init__(self, groups: int, inputs: int, outputs: int) -> None:
        super().__init__(inputs, groups * outputs)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.unflatten(0, (self.groups, -1))
        scale = None if self.scale is None else self.scale.unflatten(0, (self.groups, -1))
        return ops.block_linear(x, weight, scale, self.format)


class RMSNorm(nn.Module):
    """`weight * x / sqrt(mean(x^2) + eps)`; the weight stays in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, self.eps)
