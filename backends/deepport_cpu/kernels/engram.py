"""Conditional memory (`csrc/cpu/engram.h`). The functional twin of the convolution writes to a copy of the state."""

import torch
from torch import Tensor

from deepport.fit import calls, in_place
from deepport.kernel import Kernel, Signature, Support, no
from deepport_cpu.native import call, dense, like

_ZERO = {"half": 0, "copysign": 1, "positive": 2}


def engram_hash(
    ids: Tensor, history: Tensor, cu_seqlens: Tensor, multipliers: Tensor, moduli: Tensor, offsets: Tensor,
    pad: int, boundary: int | None = None, dead: Tensor | None = None,
) -> Tensor:  # fmt: skip
    (layers, orders, heads), tokens = moduli.shape, ids.shape[0]
    rows = torch.empty((layers, tokens, orders * heads), dtype=torch.int64)
    call.engram_hash(
        dense(ids), dense(history), dense(cu_seqlens), dense(dead), dense(multipliers), dense(moduli), dense(offsets), rows,
        tokens, cu_seqlens.shape[0] - 1, layers, orders, heads, pad, -1 if boundary is None else boundary,
    )  # fmt: skip
    return rows


def engram_gate(
    hidden: Tensor, key: Tensor, value: Tensor, w_h: Tensor, w_k: Tensor, eps: float, clamp: float, zero: str
) -> Tensor:
    gated = like(hidden)
    given = (dense(hidden), dense(key), dense(value), dense(w_h), dense(w_k))
    call.engram_gate(*given, gated, hidden.dtype, *hidden.shape, eps, clamp, _ZERO[zero])
    return gated


def _gate(signature: Signature) -> Support:
    if signature["zero"] not in _ZERO:
        return no("attribute", "the reference refuses such a call")
    return calls.engram_gate(signature)


def engram_conv_(
    gated: Tensor, w_norm: Tensor, w_conv: Tensor, state: Tensor, slots: Tensor, cu_seqlens: Tensor,
    dilation: int, eps: float,
) -> Tensor:  # fmt: skip
    out, (tokens, n, width) = like(gated), gated.shape
    call.engram_conv(
        dense(gated), dense(w_norm), dense(w_conv), w_conv.dtype, state, dense(slots), dense(cu_seqlens), out, gated.dtype,
        tokens, slots.shape[0], state.shape[0], n, width, w_conv.shape[1], dilation, eps,
    )  # fmt: skip
    return out


def engram_conv(
    gated: Tensor, w_norm: Tensor, w_conv: Tensor, state: Tensor, slots: Tensor, cu_seqlens: Tensor,
    dilation: int, eps: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    carried = state.clone(memory_format=torch.contiguous_format)
    return engram_conv_(gated, w_norm, w_conv, carried, slots, cu_seqlens, dilation, eps), carried


def _conv_in_place(signature: Signature) -> Support:
    return in_place(signature, "state") and calls.engram_conv(signature)


KERNELS = (
    Kernel("engram_hash", "native", engram_hash, calls.engram_hash),
    Kernel("engram_gate", "native", engram_gate, _gate),
    Kernel("engram_conv_", "native", engram_conv_, _conv_in_place, mutates=("state",)),
    Kernel("engram_conv", "native", engram_conv, calls.engram_conv),
)
