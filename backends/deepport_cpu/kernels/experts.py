"""Experts' matrices, one by one and all in one call (`csrc/cpu/experts.h`)."""

from math import inf

import torch
from torch import Tensor

from deepport import formats
from deepport.fit import dtypes, floats, gradients, packing, paired, shapes, stored
from deepport.kernel import Kernel, Signature, Support, no
from deepport_cpu import scratch
from deepport_cpu.native import asked, call, dense, like, of_result
from deepport_cpu.numbers import numbers


def grouped_linear(x: Tensor, w: Tensor, scale: Tensor | None, format: str, offsets: Tensor) -> Tensor:
    (count, columns), (experts, rows, _) = x.shape, w.shape
    y = torch.empty(count, rows, dtype=x.dtype)
    of = numbers(format, w, scale)
    call.grouped_linear(dense(x), dense(w), dense(scale), of, dense(offsets), y, x.dtype, count, experts, rows, columns)
    return y


def _grouped_linear(signature: Signature) -> Support:
    return (
        floats(signature, "x")
        and dtypes(signature, offsets=torch.int32)
        and stored(signature["w"], signature["scale"], signature["format"])
        and shapes(signature, w="E N P", x=f"R {packing(signature['format'])}*P", offsets="E+1")
    )


def moe_experts(
    x: Tensor, ids: Tensor, weights: Tensor, w13: Tensor, w2: Tensor, limit: float | None,
    w13_scale: Tensor | None = None, w2_scale: Tensor | None = None, format: str = formats.PLAIN,
) -> Tensor:  # fmt: skip
    (tokens, width), k, experts = x.shape, ids.shape[1], w13.shape[0]
    out = torch.empty(tokens, width, dtype=x.dtype)
    of = numbers(format, w13, w13_scale)
    call.moe_experts(
        dense(x), dense(ids), dense(weights), dense(w13), dense(w13_scale), dense(w2), dense(w2_scale), of,
        out, x.dtype, tokens, k, experts, width, w13.shape[1] // 2, inf if limit is None else limit,
    )  # fmt: skip
    return out


def _moe_experts(signature: Signature) -> Support:
    format, w13, w2 = signature["format"], signature["w13"], signature["w2"]
    scales = signature["w13_scale"], signature["w2_scale"]
    if w13.dtype != w2.dtype or (None not in scales and scales[0].dtype != scales[1].dtype):
        return no("dtype", "w13 and w2, or their scales, have different dtypes")
    if w13.shape[1] % 2:
        return no("shape", f"w13 is {list(w13.shape)}, which has no halves")
    return (  # two lists of shapes: a name is only known behind where it first stands alone
        floats(signature, "x")
        and dtypes(signature, ids=torch.int32)
        and dtypes(signature, weights=torch.float32)
        and stored(w13, scales[0], format)
        and stored(w2, scales[1], format)
        and shapes(signature, w2="E C Q", w13=f"E {2 * packing(format)}*Q P")
        and shapes(
            signature, w13="E H P", w2=f"E {packing(format)}*P Q", x=f"T {packing(format)}*P", ids="T K", weights="T K"
        )
    )


def moe_experts_backward(
    grads: list[Tensor | None], output_mask: list[bool],
    x: Tensor, ids: Tensor, weights: Tensor, w13: Tensor, w2: Tensor, limit: float | None,
    w13_scale: Tensor | None, w2_scale: Tensor | None, format: str,
) -> list[Tensor]:  # fmt: skip
    dx, dweights = like(x), like(weights)
    dw13, dw2 = (like(w) if wanted else None for w, wanted in zip((w13, w2), output_mask[2:], strict=True))
    call.moe_experts_backward(
        dense(of_result(grads, x)), dense(x), dense(ids), dense(weights), dense(w13), dense(w2), dx, dweights, dw13, dw2,
        x.dtype, *x.shape[:1], ids.shape[1], w13.shape[0], x.shape[1], w2.shape[2], inf if limit is None else limit,
    )  # fmt: skip
    return asked((dx, dweights, dw13, dw2), output_mask)


def _moe_experts_backward(signature: Signature) -> Support:
    if signature["format"] != formats.PLAIN:
        return no("format", f"the kernel takes plain matrices, not {signature['format']}")
    if not (found := paired(signature, 1, 4)):
        return found
    named = gradients(signature, "d_out")
    return floats(named, "x", "d_out", "w13", "w2") and _moe_experts(named) and shapes(named, x="T C", d_out="T C")


KERNELS = (
    Kernel("grouped_linear", "native", grouped_linear, _grouped_linear),
    Kernel("moe_experts", "native", moe_experts, _moe_experts, keeps=scratch.of_experts),
    Kernel("moe_experts_backward", "native", moe_experts_backward, _moe_experts_backward),
)
