"""Mixture of experts: routing, dispatch, the experts' matrices, and the weighted sum back."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional

from deepport import formats
from deepport.formats import accumulation
from deepport.op import operator
from deepport.ops.dense import quantized
from deepport.spec import EXACT, FLOATS, ROUNDED_ONCE, Case, Cost, Tolerance, case, nbytes, normal


def _sqrtsoftplus(x: Tensor) -> Tensor:
    # Above its default threshold of 20 torch's softplus is the identity, which is off by 1e-10; above 40, by 1e-19.
    y = functional.softplus(x, threshold=40.0)
    positive = y > 0
    # Below about -104 it underflows to 0, where the root's infinite slope would make NaN of a gradient of 0.
    return torch.where(positive, y, 1.0).sqrt() * positive


SCORING: dict[str, Callable[[Tensor], Tensor]] = {
    "sqrtsoftplus": _sqrtsoftplus,
    "sigmoid": torch.sigmoid,
    "softmax": lambda x: x.softmax(-1),
}
"""By name, from logits `[T, E]`."""


def route_arguments(
    g: Generator,
    tokens: int,
    experts: int,
    k: int,
    scoring: str,
    mode: str,
    dtype: torch.dtype,
    scale: float = 1.5,
    vocabulary: int = 50,
) -> dict[str, Any]:
    """`mode`: learned choice with a bias, `bare` without one, `tied` (all logits equal), or a `hash` table."""
    logits = torch.zeros(tokens, experts, dtype=dtype) if mode == "tied" else normal(g, tokens, experts, dtype=dtype)
    table = torch.stack([torch.randperm(experts, generator=g)[:k] for _ in range(vocabulary)])
    hashed = mode == "hash"
    return {
        "logits": logits,
        "bias": normal(g, experts, scale=0.1) if mode == "learned" else None,
        "k": k,
        "scoring": scoring,
        "scale": scale,
        "table": table if hashed else None,
        "input_ids": torch.randint(0, vocabulary, (tokens,), generator=g) if hashed else None,
    }


def _route_cases() -> Iterator[Case]:
    for scoring in SCORING:
        for mode in ("learned", "bare", "tied", "hash"):
            yield case(route_arguments, tokens=17, experts=16, k=4, scoring=scoring, mode=mode, dtype=torch.float32)
    for tokens in (0, 1):
        for dtype in FLOATS:
            yield case(
                route_arguments, tokens=tokens, experts=8, k=8, scoring="sqrtsoftplus", mode="learned", dtype=dtype
            )


@operator(
    cost=lambda logits, bias, k, scoring, scale, table=None, input_ids=None: Cost(
        12.0 * logits.numel(), nbytes(logits, bias, input_ids) + logits.shape[0] * k * 8.0
    ),
    cases=_route_cases,
    tolerance=Tolerance("a few transcendental functions in float32 on each score, and a sum of k of them"),
    fake=lambda logits, bias, k, scoring, scale, table=None, input_ids=None: (
        logits.new_empty((logits.shape[0], k), dtype=accumulation(logits.dtype)),
        logits.new_empty((logits.shape[0], k), dtype=torch.int32),
    ),
    differentiable=("logits",),
)
def route(
    logits: Tensor,
    bias: Tensor | None,
    k: int,
    scoring: str,
    scale: float,
    table: Tensor | None = None,
    input_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Choose k experts a token and weigh them: `weights = scale * s_chosen / (sum s_chosen + 1e-20)`, `s = scoring(logits)`.

    Chosen are the k largest `s + bias`, ties to the lowest id, or, hash-routed, the row `table[input_ids[t]]`: the bias
    changes the choice, never the weights. DeepSeek-V4, section 2.1.

    logits [T, E]; bias [E] float32 or None; scoring is sqrtsoftplus, sigmoid or softmax; table [V, k] int64 of ids distinct in
    each row, with input_ids [T] int64 (not together with a bias). Returns (weights [T, k] float32, ids [T, k] int32).
    """
    if scoring not in SCORING:
        raise ValueError(f"route: no scoring function is called {scoring!r}; there are: {', '.join(SCORING)}")
    if (table is None) != (input_ids is None) or (table is not None and bias is not None):
        raise ValueError("route: a table needs input_ids and no bias; without a table there are no input_ids")
    scores = SCORING[scoring](logits.to(accumulation(logits.dtype)))
    if table is not None and input_ids is not None:
        ids = table[input_ids]
    else:
        ranked = scores.detach() if bias is None else scores.detach() + bias
        ids = ranked.sort(dim=-1, descending=True, stable=True).indices[:, :k]
    weights = scores.gather(1, ids)
    return weights / (weights.sum(-1, keepdim=True) + 1e-20) * scale, ids.int()


def _distinct_ids(g: Generator, tokens: int, k: int, experts: int, dropped: bool = False) -> Tensor:
    rows = [torch.randperm(experts, generator=g)[:k] for _ in range(tokens)]
    ids = torch.stack(rows).int() if rows else torch.empty(0, k, dtype=torch.int32)
    return ids.masked_fill(torch.rand(tokens, k, generator=g) < 0.3, -1) if dropped else ids


def dispatch_arguments(
    g: Generator, tokens: int, k: int, experts: int, dropped: bool, dtype: torch.dtype, width: int = 24
) -> dict[str, Any]:
    ids = _distinct_ids(g, tokens, k, experts, dropped)
    return {"x": normal(g, tokens, width, dtype=dtype), "ids": ids, "experts": experts}


def _dispatch_cases() -> Iterator[Case]:
    for tokens, k, experts in ((0, 2, 4), (1, 1, 1), (1, 6, 64), (19, 3, 8)):
        for dropped in (False, True):
            for dtype in FLOATS:
                yield case(dispatch_arguments, tokens=tokens, k=k, experts=experts, dropped=dropped, dtype=dtype)


@operator(
    cost=lambda x, ids, experts: Cost(0.0, nbytes(x, ids) + ids.numel() * (x.shape[1] * x.element_size() + 4.0)),
    cases=_dispatch_cases,
    tolerance=EXACT,
    fake=lambda x, ids, experts: (
        x.new_empty((ids.numel(), x.shape[1])),
        ids.new_empty((experts + 1,), dtype=torch.int32),
        ids.new_empty(ids.shape, dtype=torch.int32),
    ),
    differentiable=("x",),
)
def moe_dispatch(x: Tensor, ids: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sort the tokens' copies by expert, stably: expert e gets the rows `offsets[e]:offsets[e+1]`.

    x [T, C]; ids [T, k] int32, -1 for a dropped copy. Returns (rows [T*k, C], offsets [experts+1] int32, inverse [T, k] int32:
    the row of each copy). Behind `offsets[experts]` nobody reads: what is there, and where dropped copies are, is left open.
    """
    flat = ids.flatten().long()
    flat = torch.where(flat < 0, experts, flat)
    order = flat.sort(stable=True).indices
    counts = torch.bincount(flat, minlength=experts + 1)[:experts]
    offsets = torch.cat((counts.new_zeros(1), counts.cumsum(0))).int()
    inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    return x[order // max(ids.shape[1], 1)], offsets, inverse.view(ids.shape).int()


def combine_arguments(
    g: Generator, tokens: int, k: int, dropped: bool, dtype: torch.dtype, width: int = 24, experts: int = 8
) -> dict[str, Any]:
    ids = _distinct_ids(g, tokens, k, experts, dropped)
    _, _, inverse = moe_dispatch.reference(torch.empty(tokens, 1), ids, experts)
    return {
        "y": normal(g, tokens * k, width, dtype=dtype),
        "weights": torch.rand(tokens, k, generator=g),
        "inverse": inverse,
        "ids": ids,
    }


def _combine_cases() -> Iterator[Case]:
    for tokens, k in ((0, 2), (1, 1), (19, 3)):
        for dropped in (False, True):
            for dtype in FLOATS:
                yield case(combine_arguments, tokens=tokens, k=k, dropped=dropped, dtype=dtype)


@operator(
    cost=lambda y, weights, inverse, ids: Cost(
        2.0 * y.numel(), nbytes(y, weights, inverse, ids) + weights.shape[0] * y.shape[1] * y.element_size()
    ),
    cases=_combine_cases,
    tolerance=Tolerance("a float32 sum of k products, rounded once", rms=ROUNDED_ONCE),
    fake=lambda y, weights, inverse, ids: y.new_empty((weights.shape[0], y.shape[1])),
    differentiable=("y", "weights"),
)
def moe_combine(y: Tensor, weights: Tensor, inverse: Tensor, ids: Tensor) -> Tensor:
    """`out[t] = sum_j weights[t, j] y[inverse[t, j]]` over the copies that were not dropped, in float32.

    y [T*k, C]; weights [T, k] float32; inverse [T, k] int32 from `moe_dispatch`; ids [T, k] int32, -1 for a dropped copy, whose
    row, weight and place in `inverse` are never read. Returns [T, C] in y's dtype.
    """
    wide = accumulation(y.dtype)
    dropped = (ids < 0)[..., None]
    rows = y[inverse.long().masked_fill(ids < 0, 0)].to(wide).masked_fill(dropped, 0.0)
    return (rows * weights.to(wide)[..., None].masked_fill(dropped, 0.0)).sum(1).to(y.dtype)


def grouped_arguments(
    g: Generator, counts: tuple[int, ...], kn: tuple[int, int], dtype: torch.dtype, format: str
) -> dict[str, Any]:
    k, n = kn
    weight = quantized(g, len(counts), n, k, dtype=torch.float32 if format != formats.PLAIN else dtype, format=format)
    offsets = torch.tensor([0, *counts]).cumsum(0).int()
    return {"x": normal(g, sum(counts) + 1, k, dtype=dtype), **weight, "offsets": offsets}


def _grouped_cases() -> Iterator[Case]:
    for counts in ((0, 0), (1, 0, 5), (3, 2, 0, 9)):
        for dtype in FLOATS:
            yield case(grouped_arguments, counts=counts, kn=(32, 24), dtype=dtype, format=formats.PLAIN)
    for format in ("mxfp4", "fp8_e4m3:128x128", "int8:row"):
        yield case(grouped_arguments, counts=(1, 0, 5), kn=(128, 128), dtype=torch.bfloat16, format=format)


@operator(
    cost=lambda x, w, scale, format, offsets: Cost(
        2.0 * x.numel() * w.shape[1],
        nbytes(x)
        + x.shape[0] * w.shape[1] * x.element_size()
        + nbytes(w, scale) * min(1.0, x.shape[0] / max(w.shape[0], 1)),
    ),
    cases=_grouped_cases,
    tolerance=Tolerance("one rounding after a float32 sum; the order of the sum is free"),
    fake=lambda x, w, scale, format, offsets: x.new_empty((x.shape[0], w.shape[1])),
    differentiable=("x", "w"),
)
def grouped_linear(x: Tensor, w: Tensor, scale: Tensor | None, format: str, offsets: Tensor) -> Tensor:
    """`y[r] = x[r] @ w[e]^T` for the rows `offsets[e]:offsets[e+1]` of every expert e; zeros behind the last.

    x [R, K]; w [E, N, K] in any number format, with its scale; offsets [E+1] int32. Returns [R, N] in x's dtype.
    """
    wide = accumulation(x.dtype)
    parts = []
    matrices = w.unbind()  # the gradient of unbind is one tensor, that of w[e] a whole one for every expert
    for e, (low, high) in enumerate(pairwise(offsets.tolist())):
        if low < high:
            matrix = formats.decode(matrices[e], None if scale is None else scale[e], format, wide)
            parts.append((x[low:high].to(wide) @ matrix.T).to(x.dtype))
    rest = x.shape[0] - sum(len(part) for part in parts)
    return torch.cat([*parts, x.new_zeros((rest, w.shape[1]))])


def _swiglu_cases() -> Iterator[Case]:
    for shape in ((0, 8), (1, 1), (5, 48)):
        for limit in (None, 1.0, 10.0):
            for dtype in FLOATS:
                yield case(swiglu_arguments, shape=shape, limit=limit, dtype=dtype)


def swiglu_arguments(g: Generator, shape: tuple[int, int], limit: float | None, dtype: torch.dtype) -> dict[str, Any]:
    gate, up = normal(g, *shape, dtype=dtype, scale=3), normal(g, *shape, dtype=dtype, scale=3)
    return {"gate": gate, "up": up, "limit": limit}


@operator(
    cost=lambda gate, up, limit=None: Cost(6.0 * gate.numel(), 3 * nbytes(gate)),
    cases=_swiglu_cases,
    tolerance=Tolerance("one sigmoid and two products in float32, rounded once", rms=ROUNDED_ONCE),
    fake=lambda gate, up, limit=None: gate.new_empty(gate.shape),
    differentiable=("gate", "up"),
)
def swiglu(gate: Tensor, up: Tensor, limit: float | None = None) -> Tensor:
    """`silu(min(gate, limit)) * clamp(up, -limit, limit)`; without a limit nothing is clamped.

    gate, up: the same shape and dtype, which the result has too.
    """
    wide = accumulation(gate.dtype)
    gate_wide, up_wide = gate.to(wide), up.to(wide)
    if limit is not None:
        gate_wide, up_wide = gate_wide.clamp(max=limit), up_wide.clamp(-limit, limit)
    return (functional.silu(gate_wide) * up_wide).to(gate.dtype).contiguous()


def experts_arguments(
    g: Generator,
    tokens: int,
    k: int,
    experts: int,
    ids: str,
    dtype: torch.dtype,
    format: str,
    width: int = 64,
    hidden: int = 64,
    limit: float | None = 1.0,
) -> dict[str, Any]:
    """`ids`: distinct, dropped (some -1) or duplicate."""
    chosen = _distinct_ids(g, tokens, k, experts, dropped=ids == "dropped")
    w13 = quantized(g, experts, 2 * hidden, width, dtype=dtype, format=format)
    w2 = quantized(g, experts, width, hidden, dtype=dtype, format=format)
    return {
        "x": normal(g, tokens, width, dtype=dtype),
        "ids": torch.zeros_like(chosen) if ids == "duplicate" else chosen,
        "weights": torch.rand(tokens, k, generator=g),
        "w13": w13["w"],
        "w2": w2["w"],
        "limit": limit,
        "w13_scale": w13["scale"],
        "w2_scale": w2["scale"],
        "format": format,
    }


def _experts_cases() -> Iterator[Case]:
    for tokens, k, experts in ((0, 2, 4), (1, 6, 16), (19, 3, 8)):
        for ids in ("distinct", "dropped", "duplicate"):
            for dtype in FLOATS:
                yield case(
                    experts_arguments, tokens=tokens, k=k, experts=experts, ids=ids, dtype=dtype, format=formats.PLAIN
                )
    for format in ("mxfp4", "fp8_e4m3:32x32", "int8:row"):
        yield case(experts_arguments, tokens=9, k=3, experts=8, ids="distinct", dtype=torch.bfloat16, format=format)


def _experts_cost(
    x: Tensor, ids: Tensor, weights: Tensor, w13: Tensor, w2: Tensor, limit: float | None,
    w13_scale: Tensor | None = None, w2_scale: Tensor | None = None, format: str = formats.PLAIN,
) -> Cost:  # fmt: skip
    """Weights of an expert are read once, and of no more experts than there are copies."""
    used = min(1.0, ids.numel() / max(w13.shape[0], 1))
    values = w13.shape[1] * x.shape[1] + x.shape[1] * w13.shape[1] // 2
    return Cost(
        2.0 * ids.numel() * values, 2 * nbytes(x) + nbytes(ids, weights) + used * nbytes(w13, w2, w13_scale, w2_scale)
    )


@operator(
    cost=_experts_cost,
    cases=_experts_cases,
    tolerance=Tolerance(
        "two float32 sums, each rounded to the dtype once, and a float32 weighted sum; roundings between may be left out"
    ),
    fake=lambda x, ids, weights, w13, w2, limit, w13_scale=None, w2_scale=None, format=formats.PLAIN: x.new_empty(
        x.shape
    ),
    differentiable=("x", "weights", "w13", "w2"),
)
def moe_experts(
    x: Tensor, ids: Tensor, weights: Tensor, w13: Tensor, w2: Tensor, limit: float | None,
    w13_scale: Tensor | None = None, w2_scale: Tensor | None = None, format: str = formats.PLAIN,
) -> Tensor:  # fmt: skip
    """`out[t] = sum_j weights[t, j] w2[e] swiglu(w1[e] x[t], w3[e] x[t])` with `e = ids[t, j]`.

    Exactly `moe_dispatch`, `grouped_linear` (w13: the gate half first), `swiglu`, `grouped_linear` (w2), `moe_combine`.

    x [T, C]; ids [T, k] int32, -1 for a dropped copy, duplicates are summed; weights [T, k] float32; w13 [E, 2*I, C] and
    w2 [E, C, I] in any number format, with their scales. Returns [T, C] in x's dtype.
    """
    rows, offsets, inverse = moe_dispatch.reference(x, ids, w13.shape[0])
    gate, up = grouped_linear.reference(rows, w13, w13_scale, format, offsets).chunk(2, -1)
    y = grouped_linear.reference(swiglu.reference(gate, up, limit), w2, w2_scale, format, offsets)
    return moe_combine.reference(y, weights, inverse, ids)
