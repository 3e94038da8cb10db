"""Operators composed of other operators: kernels for a backend whose kernels for the parts are worth calling.

Each part is served by whoever serves it on the device. A backend lists one where it gains: `Kernel("moe_experts", "composed",
composed.moe_experts, supports)`.
"""

from torch import Tensor

from deepport import formats, ops


def moe_experts(
    x: Tensor, ids: Tensor, weights: Tensor, w13: Tensor, w2: Tensor, limit: float | None,
    w13_scale: Tensor | None = None, w2_scale: Tensor | None = None, format: str = formats.PLAIN,
) -> Tensor:  # fmt: skip
    rows, offsets, inverse = ops.moe_dispatch(x, ids, w13.shape[0])
    gate, up = ops.grouped_linear(rows, w13, w13_scale, format, offsets).chunk(2, -1)
    y = ops.grouped_linear(ops.swiglu(gate, up, limit), w2, w2_scale, format, offsets)
    return ops.moe_combine(y, weights, inverse, ids)
