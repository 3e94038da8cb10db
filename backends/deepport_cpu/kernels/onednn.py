"""CPU kernels that torch already has.

The references convert bf16 weights to float32 at every call. oneDNN multiplies bf16 as it is and accumulates in float32,
so that a weight is read once.
"""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from deepport import composed, formats
from deepport.kernel import YES, Kernel, Signature, Support, no

_ROWS = 16


def _bfloat16(signature: Signature) -> Support:
    if signature["format"] != formats.PLAIN:
        return no("format", f"torch has no {signature['format']} GEMM on the CPU")
    for name in ("x", "w"):
        if signature[name].dtype != torch.bfloat16:
            return no("dtype", f"{name} is {signature[name].dtype}; only bfloat16 gains over the reference")
    return YES


def linear(
    x: Tensor, w: Tensor, scale: Tensor | None = None, format: str = formats.PLAIN, wide: bool = False
) -> Tensor:
    return functional.linear(x, w)


def _linear(signature: Signature) -> Support:
    return no("attribute", "torch rounds its sums") if signature["wide"] else _bfloat16(signature)


def block_linear(x: Tensor, w: Tensor, scale: Tensor | None = None, format: str = formats.PLAIN) -> Tensor:
    return torch.bmm(x.transpose(0, 1), w.transpose(1, 2)).transpose(0, 1).contiguous()


def _only(grads: list[Tensor | None]) -> Tensor:
    """The gradient of the one output; `_backward` has seen that there is one."""
    (grad,) = grads
    if grad is None:
        raise ValueError("the output has no gradient")
    return grad


def linear_backward(
    grads: list[Tensor | None], output_mask: list[bool],
    x: Tensor, w: Tensor, scale: Tensor | None, format: str, wide: bool,
) -> list[Tensor]:  # fmt: skip
    rows = _only(grads).reshape(-1, w.shape[0])
    dx = [(rows @ w).view(x.shape)] if output_mask[0] else []
    return [*dx, rows.T @ x.reshape(-1, x.shape[-1])] if output_mask[1] else dx


def block_linear_backward(
    grads: list[Tensor | None], output_mask: list[bool], x: Tensor, w: Tensor, scale: Tensor | None, format: str
) -> list[Tensor]:
    groups = _only(grads).transpose(0, 1)
    dx = [torch.bmm(groups, w).transpose(0, 1).contiguous()] if output_mask[0] else []
    return [*dx, torch.bmm(groups.transpose(1, 2), x.transpose(0, 1))] if output_mask[1] else dx


def _backward(signature: Signature) -> Support:
    if signature["format"] != formats.PLAIN:
        return no("format", f"torch has no {signature['format']} GEMM on the CPU")
    found = [t and t.dtype for t in (signature["grads"][0], signature["x"], signature["w"])]
    if found not in ([torch.bfloat16] * 3, [torch.float32] * 3):
        return no("dtype", f"grads[0], x and w are {found}; torch multiplies bfloat16 or float32")
    return YES


def grouped_linear(x: Tensor, w: Tensor, scale: Tensor | None, format: str, offsets: Tensor) -> Tensor:
    y = x.new_zeros((x.shape[0], w.shape[1]))
    for e, (low, high) in enumerate(pairwise(offsets.tolist())):
        if low < high:
            # oneDNN compiles, and keeps, a GEMM for every number of rows: multiply a few rows too many, of few numbers.
            rows = min(low + -(-(high - low) // _ROWS) * _ROWS, x.shape[0])
            y[low:high] = torch.mm(x[low:rows], w[e].T)[: high - low]
    return y


def _composable(signature: Signature) -> Support:
    if signature["format"] != formats.PLAIN or signature["x"].dtype != torch.bfloat16:
        return no(
            "dtype", "grouped_linear has a kernel for plain bfloat16 only, and the composition gains nothing else"
        )
    return YES


KERNELS = (
    Kernel("linear", "onednn", linear, _linear),
    Kernel("block_linear", "onednn", block_linear, _bfloat16),
    Kernel("linear_backward", "onednn", linear_backward, _backward),
    Kernel("block_linear_backward", "onednn", block_linear_backward, _backward),
    Kernel("grouped_linear", "onednn", grouped_linear, _bfloat16),
    Kernel("moe_experts", "composed", composed.moe_experts, _composable),
)
