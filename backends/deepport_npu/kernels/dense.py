"""Normalisation, rotary embedding, SwiGLU and linear layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from deepport import formats
from deepport.kernel import YES, Kernel, Signature, Support, TensorSpec, no
from deepport_npu.kernels.chip import Chip, every, laid

_NARROW = (torch.bfloat16, torch.float16)


def kernels(chip: Chip) -> tuple[Kernel, ...]:
    return (
        Kernel("rms_norm", "npu_rms_norm", rms_norm, lambda s: _rms_norm(chip, s)),
        Kernel("rotary", "npu_rotary_mul", rotary, lambda s: _rotary(chip, s)),
        Kernel("swiglu", "npu_clipped_swiglu", clipped_swiglu, lambda s: _clipped_swiglu(chip, s)),
        Kernel("swiglu", "npu_swiglu", plain_swiglu, lambda s: _plain_swiglu(chip, s)),
        Kernel("linear", "npu_weight_quant_batchmatmul", int8_linear, lambda s: _int8_linear(chip, s)),
        Kernel("linear", "matmul", linear, lambda s: every(_rounded(s), _matmul(s))),
        Kernel("block_linear", "matmul", block_linear, _matmul),
    )


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """The vendor's takes a float32 weight beside narrower x, and rounds once; without one, ones stand in."""
    import torch_npu

    gamma = torch.ones(x.shape[-1:], dtype=torch.float32, device=x.device) if weight is None else weight
    y: Tensor = torch_npu.npu_rms_norm(x.contiguous(), gamma.contiguous(), eps)[0]
    return y


def _rms_norm(chip: Chip, call: Signature) -> Support:
    x, weight = call["x"], call["weight"]
    gamma = laid(torch.float32, x.shape[-1]) if weight is None else laid(weight.dtype, *weight.shape)
    return chip.takes("npu_rms_norm", input=laid(x.dtype, *x.shape), gamma=gamma, epsilon=call["eps"])


def rotary(x: Tensor, cos: Tensor, sin: Tensor, inverse: bool = False) -> Tensor:
    """In float32, since the vendor rounds angles to x's dtype; leading channels are not touched."""
    import torch_npu

    size = 2 * cos.shape[-1]
    kept, turned = x.split((x.shape[-1] - size, size), -1)
    r1, r2 = (torch.stack((c, c), -1).view(1, c.shape[0], 1, size) for c in (cos, -sin if inverse else sin))
    wide = turned.float().reshape(1, x.shape[0], -1, size)
    found = torch_npu.npu_rotary_mul(wide, r1, r2, "interleave").view(turned.shape).to(x.dtype)
    return torch.cat((kept, found), -1)


def _rotary(chip: Chip, call: Signature) -> Support:
    x, cos = call["x"], call["cos"]
    if x.dtype == torch.float64 or cos.dtype != torch.float32:
        return no("dtype", f"x is {x.dtype} and cos {cos.dtype}; the vendor computes in float32")
    heads = 1 if len(x.shape) == 2 else x.shape[1]
    angles = laid(torch.float32, 1, x.shape[0], 1, 2 * cos.shape[-1])
    wide = laid(torch.float32, 1, x.shape[0], heads, 2 * cos.shape[-1])
    return chip.takes("npu_rotary_mul", input=wide, r1=angles, r2=angles, rotary_mode="interleave")


def clipped_swiglu(gate: Tensor, up: Tensor, limit: float | None = None) -> Tensor:
    """The vendor's defaults are another model's: alpha 1.702, limit 7, `up + 1`, and halves that alternate."""
    import torch_npu

    x = torch.cat((gate, up), -1)
    y: Tensor = torch_npu.npu_clipped_swiglu(x, dim=-1, alpha=1.0, limit=limit, bias=0.0, interleaved=False)
    return y


def _clipped_swiglu(chip: Chip, call: Signature) -> Support:
    if call["limit"] is None:
        return no("attribute", "npu_clipped_swiglu always clamps; there is no limit")
    options: dict[str, Any] = {"dim": -1, "alpha": 1.0, "limit": call["limit"], "bias": 0.0, "interleaved": False}
    return chip.takes("npu_clipped_swiglu", x=_joined(call), **options)


def plain_swiglu(gate: Tensor, up: Tensor, limit: float | None = None) -> Tensor:
    import torch_npu

    y: Tensor = torch_npu.npu_swiglu(torch.cat((gate, up), -1), dim=-1)
    return y


def _plain_swiglu(chip: Chip, call: Signature) -> Support:
    if call["limit"] is not None:
        return no("attribute", "npu_swiglu does not clamp; the limit is " + str(call["limit"]))
    return chip.takes("npu_swiglu", input=_joined(call), dim=-1)


def _joined(call: Signature) -> TensorSpec:
    gate = call["gate"]
    return laid(gate.dtype, *gate.shape[:-1], 2 * gate.shape[-1])


def linear(
    x: Tensor, w: Tensor, scale: Tensor | None = None, format: str = formats.PLAIN, wide: bool = False
) -> Tensor:
    """One narrow product, accumulated in float32 by the cube unit; the reference multiplies float32 copies."""
    return functional.linear(x, w)


def block_linear(x: Tensor, w: Tensor, scale: Tensor | None = None, format: str = formats.PLAIN) -> Tensor:
    return torch.bmm(x.transpose(0, 1), w.transpose(1, 2)).transpose(0, 1).contiguous()


def _matmul(call: Signature) -> Support:
    x, w = call["x"], call["w"]
    if call["format"] != formats.PLAIN:
        return no("format", f"{call['format']} weights are not multiplied as they are")
    if x.dtype not in _NARROW or w.dtype != x.dtype:
        return no("dtype", f"x is {x.dtype} and w {w.dtype}; only bfloat16 and float16 gain over the reference")
    return no("shape", "x or w is empty") if 0 in (*x.shape, *w.shape) else YES


def _rounded(call: Signature) -> Support:
    return no("attribute", "the cube unit's sums come rounded; wide ones are asked for") if call["wide"] else YES


def int8_linear(
    x: Tensor, w: Tensor, scale: Tensor | None = None, format: str = formats.PLAIN, wide: bool = False
) -> Tensor:
    """Integers up to 127 are exact in bfloat16: the vendor multiplies by them, and the float32 scale of each row comes after.

    npu_quant_matmul is faster and is not this operator: it rounds x to int8.
    """
    import torch_npu

    if scale is None:
        raise ValueError("linear: int8:row weights need a scale")
    ones = torch.ones(w.shape[0], dtype=x.dtype, device=x.device)
    y = torch_npu.npu_weight_quant_batchmatmul(x.reshape(-1, x.shape[-1]).contiguous(), w.t(), ones)
    found: Tensor = (y.float() * scale.view(-1)).to(x.dtype).view(*x.shape[:-1], w.shape[0])
    return found


def _int8_linear(chip: Chip, call: Signature) -> Support:
    x, w = call["x"], call["w"]
    if call["format"] != "int8:row":
        return no("format", f"npu_weight_quant_batchmatmul multiplies by int8:row weights, not {call['format']}")
    if call["wide"]:
        return _rounded(call)
    if x.dtype == torch.float16:
        return no("dtype", "a sum of products with integers may pass float16's range")
    rows = 1
    for size in x.shape[:-1]:
        rows *= size
    return every(
        chip.takes(
            "npu_weight_quant_batchmatmul",
            x=laid(x.dtype, rows, x.shape[-1]),
            weight=laid(w.dtype, w.shape[1], w.shape[0]),
            antiquant_scale=laid(x.dtype, w.shape[0]),
        ),
        YES if w.contiguous else no("layout", "w is not contiguous"),
    )
