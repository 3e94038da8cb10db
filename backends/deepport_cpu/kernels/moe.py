"""Routing, dispatch, combination and SwiGLU (`csrc/cpu/route.h`, `csrc/cpu/moe.h`)."""

from math import inf

import torch
from torch import Tensor

from deepport.fit import calls
from deepport.kernel import YES, Kernel, Signature, Support, no
from deepport.ops.moe import SCORING
from deepport_cpu.native import call, dense, like


def route(
    logits: Tensor,
    bias: Tensor | None,
    k: int,
    scoring: str,
    scale: float,
    table: Tensor | None = None,
    input_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    tokens, experts = logits.shape
    weights, ids = torch.empty(tokens, k), torch.empty(tokens, k, dtype=torch.int32)
    vocabulary = 0 if table is None else table.shape[0]
    call.route(
        dense(logits), logits.dtype, dense(bias), dense(table), dense(input_ids), vocabulary,
        weights, ids, tokens, experts, k, scoring, scale,
    )  # fmt: skip
    return weights, ids


def _route(signature: Signature) -> Support:
    table, k = signature["table"], signature["k"]
    if signature["scoring"] not in SCORING or (table is None) != (signature["input_ids"] is None):
        return no("attribute", "the reference refuses such a call")
    if table is not None and signature["bias"] is not None:
        return no("attribute", "there is no bias beside a table")
    return calls.route(signature) and (
        YES if k <= signature["logits"].shape[1] else no("shape", f"there are not {k} experts to choose")
    )


def moe_dispatch(x: Tensor, ids: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    (tokens, k), width = ids.shape, x.shape[1]
    rows, offsets = torch.empty(tokens * k, width, dtype=x.dtype), torch.empty(experts + 1, dtype=torch.int32)
    inverse = like(ids)
    call.moe_dispatch(dense(x), dense(ids), rows, offsets, inverse, tokens, k, experts, width * x.element_size())
    return rows, offsets, inverse


def moe_combine(y: Tensor, weights: Tensor, inverse: Tensor, ids: Tensor) -> Tensor:
    (tokens, k), (rows, width) = weights.shape, y.shape
    out = torch.empty(tokens, width, dtype=y.dtype)
    call.moe_combine(dense(y), dense(weights), dense(inverse), dense(ids), out, y.dtype, rows, tokens, k, width)
    return out


def swiglu(gate: Tensor, up: Tensor, limit: float | None = None) -> Tensor:
    y = like(gate)
    call.swiglu(dense(gate), dense(up), y, gate.dtype, gate.numel(), inf if limit is None else limit)
    return y


KERNELS = (
    Kernel("route", "native", route, _route),
    Kernel("moe_dispatch", "native", moe_dispatch, calls.moe_dispatch),
    Kernel("moe_combine", "native", moe_combine, calls.moe_combine),
    Kernel("swiglu", "native", swiglu, calls.swiglu),
)
