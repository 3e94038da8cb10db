"""Faults of kernels: routing, experts and residual streams."""

import torch

from gpu.mutants import Mutant

F32 = torch.float32
_DISPATCH = {"tokens": 5, "k": 3, "experts": 4, "dropped": True, "dtype": F32}
_EXPERTS = {"tokens": 3, "k": 2, "experts": 4, "ids": "distinct", "format": "plain", "dtype": F32}
_COMBINE = {"tokens": 9, "k": 3, "dropped": True, "dtype": F32}
_ROUTE = {"tokens": 3, "experts": 16, "k": 4, "scoring": "sqrtsoftplus", "mode": "learned", "dtype": F32}
_STREAMS = {"tokens": 3, "n": 3, "width": 33, "dtype": F32}
_PRE, _HEAD = {**_STREAMS, "outputs": "pre"}, {**_STREAMS, "outputs": "head"}

MUTANTS = (
    Mutant(
        "moe_dispatch", "-1 followed", "experts", "tl.where((id < 0) | (id >= experts), experts, id)", "id", _DISPATCH
    ),
    Mutant(
        "moe_dispatch",
        "a row off by one",
        "experts",
        "tl.cumsum(mine.to(tl.int32), 0) - 1",
        "tl.cumsum(mine.to(tl.int32), 0)",
        _DISPATCH,
    ),
    Mutant(
        "moe_dispatch",
        "a mask dropped",
        "experts",
        "tl.load(x + token * width + at, mask=at < width)",
        "tl.load(x + token * width + at)",
        {**_DISPATCH, "tokens": 1, "k": 1, "dropped": False},
        guard=True,
    ),
    Mutant(
        "moe_experts",
        "a clamp removed",
        "experts",
        "clamped_swiglu(gate, up, limit)",
        "clamped_swiglu(gate, up, limit * 1000.0)",
        _EXPERTS,
    ),
    Mutant("moe_experts", "gate for up", "experts", "(out % 2) * hidden", "(1 - out % 2) * hidden", _EXPERTS),
    Mutant(
        "moe_combine", "-1 followed", "moe", "if tl.load(ids + copy) >= 0:", "if tl.load(ids + copy) >= -1:", _COMBINE
    ),
    Mutant(
        "moe_combine",
        "weights forgotten",
        "moe",
        "total += tl.load(weights + copy) * values",
        "total += values",
        _COMBINE,
    ),
    Mutant(
        "moe_combine",
        "a mask dropped",
        "moe",
        "(row < count) & (at < width)",
        "(row < count) & (at >= 0)",
        {**_COMBINE, "dropped": False},
        guard=True,
    ),
    Mutant(
        "route",
        "a scale forgotten",
        "moe",
        "(tl.sum(picked, 1) + 1e-20)[:, None] * scale",
        "(tl.sum(picked, 1) + 1e-20)[:, None]",
        _ROUTE,
    ),
    Mutant(
        "route",
        "ties to the highest",
        "moe",
        "tl.min(tl.where(left == tl.max(left, 1)[:, None], expert, block), 1)",
        "tl.max(tl.where(left == tl.max(left, 1)[:, None], expert, -1), 1)",
        {**_ROUTE, "mode": "tied"},
    ),
    Mutant("mhc_pre", "post of a half", "mhc", "2.0 * _sigmoid(a_post)", "_sigmoid(a_post)", _PRE),
    Mutant(
        "mhc_pre",
        "rows of pre for post",
        "mhc",
        "_projection(x, present, fn, size, n + stream,",
        "_projection(x, present, fn, size, stream,",
        _PRE,
    ),
    Mutant(
        "mhc_head", "a stream's norm", "mhc", "squares / (n * width) + norm_eps", "squares / width + norm_eps", _HEAD
    ),
    Mutant(
        "mhc_head",
        "a scale forgotten",
        "mhc",
        "(n * width) + norm_eps)[:, None] * tl.load(scale)",
        "(n * width) + norm_eps)[:, None]",
        _HEAD,
    ),
    Mutant(
        "mhc_post",
        "comb as it is",
        "mhc",
        "comb + (token * n + k)[:, None] * n + stream[None, :], mask",
        "comb + (token[:, None] * n + stream[None, :]) * n + k, mask",
        _STREAMS,
    ),
    Mutant(
        "mhc_post",
        "a mask dropped",
        "mhc",
        "tl.load(comb + (token * n + k)[:, None] * n + stream[None, :], mask=there, other=0.0)",
        "tl.load(comb + (token * n + k)[:, None] * n + stream[None, :])",
        _STREAMS,
        guard=True,
    ),
)
