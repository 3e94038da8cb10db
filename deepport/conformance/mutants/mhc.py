"""Mutants of hyper-connections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from deepport.conformance.mutants.mutant import Given, Mutant, answered, asked, differentiated, written
from deepport.formats import accumulation
from deepport.ops import mhc_head, mhc_post, mhc_pre


def mutants() -> Iterator[Mutant]:
    yield from _pre()
    yield from _post()
    yield from _head()
    yield from _gradients()


def _sinkhorn(iters: int, eps: float, comb: Tensor, *, rows_last: bool) -> Tensor:
    first, second = (-2, -1) if rows_last else (-1, -2)
    comb = comb / (comb.sum(second, keepdim=True) + eps)
    for _ in range(iters - 1):
        comb = comb / (comb.sum(first, keepdim=True) + eps)
        comb = comb / (comb.sum(second, keepdim=True) + eps)
    return comb.contiguous()


def _mixes(streams: Tensor, fn: Tensor, norm_eps: float, *, each: bool = False) -> Tensor:
    """The projection of the normalised streams; `each` normalises every stream alone."""
    wide = streams.to(accumulation(streams.dtype))
    flat = wide.flatten(1)
    mean = wide.square().mean(-1, keepdim=True) if each else flat.square().mean(-1)[:, None, None]
    return (wide * torch.rsqrt(mean + norm_eps)).flatten(1) @ fn.to(flat.dtype).T


Comb = Callable[[Tensor, int, float], Tensor]


def _right_comb(a: Tensor, iters: int, eps: float) -> Tensor:
    return _sinkhorn(iters, eps, a.softmax(-1) + eps, rows_last=False)


def _pre_with(comb: Comb = _right_comb, *, each: bool = False, collapse_eps: bool = True) -> Callable[..., Any]:
    """mhc_pre with its parts exchanged."""

    def run(
        streams: Tensor, fn: Tensor, scale: Tensor, base: Tensor, iters: int, eps: float, norm_eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        n = streams.shape[1]
        sizes = (n, n, n * n)
        parts = _mixes(streams, fn, norm_eps, each=each).split(sizes, -1)
        a_pre, a_post, a_comb = (m * s + b for m, s, b in zip(parts, scale, base.split(sizes), strict=True))
        pre = a_pre.sigmoid() + (eps if collapse_eps else 0.0)
        collapsed = (pre[..., None] * streams.to(pre.dtype)).sum(1).to(streams.dtype)
        return collapsed, 2 * a_post.sigmoid(), comb(a_comb.unflatten(-1, (n, n)), iters, eps)

    return run


def _rows_last(a: Tensor, iters: int, eps: float) -> Tensor:
    return _sinkhorn(iters, eps, a.softmax(-1) + eps, rows_last=True)


def _softmax_of_columns(a: Tensor, iters: int, eps: float) -> Tensor:
    return _sinkhorn(iters, eps, a.softmax(-2) + eps, rows_last=False)


def _without_eps(a: Tensor, iters: int, eps: float) -> Tensor:
    return _sinkhorn(iters, 0.0, a.softmax(-1), rows_last=False)


def _pre() -> Iterator[Mutant]:
    yield asked(mhc_pre, "one_iteration_short", "Sinkhorn runs iters - 1 times", lambda g: {"iters": g["iters"] - 1})
    yield asked(mhc_pre, "two_iterations", "Sinkhorn runs twice", lambda g: {"iters": 2})
    yield written(mhc_pre, "rows_last", "Sinkhorn ends with the rows, not the columns", _pre_with(_rows_last))
    yield written(mhc_pre, "softmax_of_columns", "the first softmax is over columns", _pre_with(_softmax_of_columns))
    yield written(mhc_pre, "norms_each_stream", "every stream is normalised alone", _pre_with(each=True))
    yield written(mhc_pre, "pre_without_eps", "eps is not added to `pre`", _pre_with(collapse_eps=False))
    yield written(mhc_pre, "sinkhorn_without_eps", "Sinkhorn leaves out its eps", _pre_with(_without_eps))
    yield answered(mhc_pre, "post_times_one", "post is sigmoid, not twice that", lambda r, g: [r[0], r[1] / 2, r[2]])
    yield answered(mhc_pre, "comb_transposed", "comb is transposed", lambda r, g: [r[0], r[1], r[2].mT.contiguous()])
    yield answered(mhc_pre, "post_in_bfloat16", "coefficients are rounded to bfloat16", _narrow_coefficients)
    yield asked(mhc_pre, "one_scale_for_all", "all three parts have the first one's scale", _first_scale)


def _narrow_coefficients(results: list[Tensor], given: Given) -> Any:
    return [results[0], *(t.bfloat16().to(t.dtype) for t in results[1:])]


def _first_scale(given: Given) -> Given:
    return {"scale": given["scale"][:1].expand(3).contiguous()}


def _post() -> Iterator[Mutant]:
    def narrow(y: Tensor, streams: Tensor, post: Tensor, comb: Tensor) -> Tensor:
        mixed = (comb.mT @ streams.float()).to(streams.dtype)
        return (post[..., None] * y.float()[:, None]).to(streams.dtype) + mixed

    yield asked(
        mhc_post,
        "comb_not_transposed",
        "the sum runs over comb's second axis",
        lambda g: {"comb": g["comb"].mT.contiguous()},
    )
    yield asked(
        mhc_post,
        "post_ignored",
        "the sublayer's output is added with weight 1",
        lambda g: {"post": torch.ones_like(g["post"])},
    )
    yield asked(mhc_post, "plain_residual", "streams are not mixed", _identity)
    yield written(mhc_post, "rounds_between", "both terms are rounded before they are added", narrow)


def _identity(given: Given) -> Given:
    comb = given["comb"]
    return {"comb": torch.eye(comb.shape[-1]).expand_as(comb).contiguous()}


def _head() -> Iterator[Mutant]:
    def each(streams: Tensor, fn: Tensor, scale: Tensor, base: Tensor, eps: float, norm_eps: float) -> Tensor:
        pre = (_mixes(streams, fn, norm_eps, each=True) * scale + base).sigmoid() + eps
        return (pre[..., None] * streams.float()).sum(1).to(streams.dtype)

    def narrow(streams: Tensor, fn: Tensor, scale: Tensor, base: Tensor, eps: float, norm_eps: float) -> Tensor:
        pre = ((_mixes(streams, fn, norm_eps) * scale + base).sigmoid() + eps).to(streams.dtype)
        return (pre[..., None].float() * streams.float()).sum(1).to(streams.dtype)

    yield written(mhc_head, "norms_each_stream", "every stream is normalised alone", each)
    yield written(mhc_head, "weights_in_bfloat16", "weights are rounded to the streams' dtype", narrow)
    yield asked(mhc_head, "ignores_the_base", "the base is missing", lambda g: {"base": torch.zeros_like(g["base"])})
    yield asked(mhc_head, "ignores_the_scale", "the scale is 1", lambda g: {"scale": torch.ones_like(g["scale"])})
    yield answered(mhc_head, "averages", "divides by the number of streams", lambda r, g: r[0] / g["streams"].shape[1])


def _gradients() -> Iterator[Mutant]:
    pre, post = mhc_pre.reference, mhc_post.reference

    def constant_weights(**given: Any) -> Any:
        _, *rest = pre(**given)
        frozen = {n: given[n].detach() for n in ("fn", "scale", "base")}
        return pre(**given | frozen)[0], *rest

    def constant_comb(**given: Any) -> Any:
        *found, comb = pre(**given)
        return *found, comb.detach()

    def without_comb(**given: Any) -> Any:
        return post(**given | {"comb": given["comb"].detach()})

    yield differentiated(mhc_pre, "pre_is_constant", "the collapse's weights are held constant", constant_weights)
    yield differentiated(mhc_pre, "sinkhorn_is_constant", "comb has no gradient", constant_comb)
    yield differentiated(mhc_post, "no_comb_gradient", "comb has no gradient", without_comb)
