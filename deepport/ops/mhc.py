"""Manifold-constrained hyper-connections: n residual streams mixed by a doubly stochastic matrix (arXiv 2512.24880)."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor

from deepport.formats import accumulation
from deepport.op import operator
from deepport.spec import FLOATS, ROUNDED_ONCE, Case, Cost, Tolerance, case, nbytes, normal


def collapse_arguments(
    g: Generator, tokens: int, n: int, width: int, outputs: str, dtype: torch.dtype
) -> dict[str, Any]:
    """`outputs`: pre (which makes post and comb too) or head."""
    rows = n * (2 + n) if outputs == "pre" else n
    shared = {
        "streams": normal(g, tokens, n, width, dtype=dtype),
        "fn": normal(g, rows, n * width, scale=(n * width) ** -0.5),
        "scale": 1 + normal(g, 3 if outputs == "pre" else 1, scale=0.1),
        "base": normal(g, rows),
    }
    return shared | ({"iters": 20} if outputs == "pre" else {}) | {"eps": 1e-6, "norm_eps": 1e-6}


def _pre_cases() -> Iterator[Case]:
    for tokens, n, width in ((0, 4, 16), (1, 4, 64), (9, 2, 32), (5, 6, 24)):
        for dtype in FLOATS:
            yield case(collapse_arguments, tokens=tokens, n=n, width=width, outputs="pre", dtype=dtype)


def _head_cases() -> Iterator[Case]:
    for tokens, n, width in ((0, 4, 16), (1, 4, 64), (9, 2, 32)):
        for dtype in FLOATS:
            yield case(collapse_arguments, tokens=tokens, n=n, width=width, outputs="head", dtype=dtype)


def _mixes(streams: Tensor, fn: Tensor, norm_eps: float) -> Tensor:
    """The projection `[T, rows]` of the normalised, flattened streams, in float32."""
    wide = accumulation(streams.dtype)
    flat = streams.flatten(1).to(wide)
    return (flat * torch.rsqrt(flat.square().mean(-1, keepdim=True) + norm_eps)) @ fn.to(wide).T


def _collapse(streams: Tensor, pre: Tensor) -> Tensor:
    return (pre[..., None] * streams.to(pre.dtype)).sum(1).to(streams.dtype)


def _pre_cost(
    streams: Tensor, fn: Tensor, scale: Tensor, base: Tensor, iters: int, eps: float, norm_eps: float
) -> Cost:
    tokens, n, width = streams.shape
    coefficients = tokens * (n + n * n)
    flops = 2.0 * tokens * fn.numel() + 6.0 * streams.numel() + 4.0 * iters * tokens * n * n
    return Cost(flops, nbytes(streams, fn, scale, base) + tokens * width * streams.element_size() + 4.0 * coefficients)


@operator(
    cost=_pre_cost,
    cases=_pre_cases,
    tolerance=Tolerance(
        "a float32 projection of n*C terms, then 2*iters float32 normalisations of n numbers; rounded once",
        rms=ROUNDED_ONCE,
    ),
    fake=lambda streams, fn, scale, base, iters, eps, norm_eps: (
        streams.new_empty((streams.shape[0], streams.shape[2])),
        streams.new_empty((streams.shape[0], streams.shape[1]), dtype=accumulation(streams.dtype)),
        streams.new_empty((streams.shape[0], streams.shape[1], streams.shape[1]), dtype=accumulation(streams.dtype)),
    ),
    differentiable=("streams", "fn", "scale", "base"),
)
def mhc_pre(
    streams: Tensor, fn: Tensor, scale: Tensor, base: Tensor, iters: int, eps: float, norm_eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Collapse n streams into a sublayer's input, and compute how its output and the streams mix again.

    With `a = fn @ rms(flat streams)`, in three parts of n, n and n*n rows, each times its scale plus its base:
    `pre = sigmoid(a_pre) + eps`, `post = 2 sigmoid(a_post)`, `comb = sinkhorn(softmax(a_comb, -1) + eps)`, which normalises
    columns, then `iters - 1` times rows and columns, each sum plus eps. Columns sum to 1 within 1e-5; rows only as far as
    the iteration has converged.

    streams [T, n, C]; fn [(2+n)*n, n*C], scale [3], base [(2+n)*n] float32.
    Returns (`sum_n pre * streams` [T, C] in the streams' dtype, post [T, n], comb [T, n, n] float32).
    """
    n = streams.shape[1]
    sizes = (n, n, n * n)
    mixes, bases = _mixes(streams, fn, norm_eps).split(sizes, -1), base.split(sizes)
    a_pre, a_post, a_comb = (m * s + b for m, s, b in zip(mixes, scale, bases, strict=True))
    comb = a_comb.unflatten(-1, (n, n)).softmax(-1) + eps
    comb = comb / (comb.sum(-2, keepdim=True) + eps)
    for _ in range(iters - 1):
        comb = comb / (comb.sum(-1, keepdim=True) + eps)
        comb = comb / (comb.sum(-2, keepdim=True) + eps)
    return _collapse(streams, a_pre.sigmoid() + eps), 2 * a_post.sigmoid(), comb.contiguous()


def post_arguments(g: Generator, tokens: int, n: int, width: int, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "y": normal(g, tokens, width, dtype=dtype),
        "streams": normal(g, tokens, n, width, dtype=dtype),
        "post": 2 * torch.rand(tokens, n, generator=g),
        "comb": normal(g, tokens, n, n).softmax(-1),
    }


def _post_cases() -> Iterator[Case]:
    for tokens, n, width in ((0, 4, 16), (1, 4, 64), (9, 2, 33)):
        for dtype in FLOATS:
            yield case(post_arguments, tokens=tokens, n=n, width=width, dtype=dtype)


@operator(
    cost=lambda y, streams, post, comb: Cost(
        2.0 * streams.numel() * (streams.shape[1] + 1), 2 * nbytes(streams) + nbytes(y, post, comb)
    ),
    cases=_post_cases,
    tolerance=Tolerance("a float32 sum of n + 1 products, rounded once", rms=ROUNDED_ONCE),
    fake=lambda y, streams, post, comb: streams.new_empty(streams.shape),
    differentiable=("y", "streams", "post", "comb"),
)
def mhc_post(y: Tensor, streams: Tensor, post: Tensor, comb: Tensor) -> Tensor:
    """`out[m] = post[m] y + sum_k comb[k, m] streams[k]`: the sum runs over comb's *first* stream axis.

    y [T, C]; streams [T, n, C]; post [T, n], comb [T, n, n] float32. Returns [T, n, C] in the streams' dtype.
    """
    wide = accumulation(streams.dtype)
    mixed = comb.to(wide).transpose(1, 2) @ streams.to(wide)
    return (post.to(wide)[..., None] * y.to(wide)[:, None] + mixed).to(streams.dtype)


@operator(
    cost=lambda streams, fn, scale, base, eps, norm_eps: Cost(
        2.0 * streams.shape[0] * fn.numel() + 6.0 * streams.numel(),
        nbytes(streams, fn) + nbytes(streams) / streams.shape[1],
    ),
    cases=_head_cases,
    tolerance=Tolerance("a float32 projection of n*C terms and a sum of n products, rounded once", rms=ROUNDED_ONCE),
    fake=lambda streams, fn, scale, base, eps, norm_eps: streams.new_empty((streams.shape[0], streams.shape[2])),
    differentiable=("streams", "fn", "scale", "base"),
)
def mhc_head(streams: Tensor, fn: Tensor, scale: Tensor, base: Tensor, eps: float, norm_eps: float) -> Tensor:
    """Collapse the streams for the last time: `sum_n (sigmoid(a * scale + base) + eps) * streams`, no Sinkhorn.

    streams [T, n, C]; fn [n, n*C], scale [1], base [n] float32. Returns [T, C] in the streams' dtype.
    """
    return _collapse(streams, (_mixes(streams, fn, norm_eps) * scale + base).sigmoid() + eps)
