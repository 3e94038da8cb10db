"""Residual streams (arXiv 2512.24880): norm, projection and Sinkhorn in one launch, a program for each token."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepport.fit import calls
from deepport.kernel import Kernel, Signature, Support
from deepport_triton.kernels.elementwise import ACTIVATIONS, at_once
from deepport_triton.launch import launch


@triton.jit
def _tokens(count, tokens: tl.constexpr):
    """A program's tokens, and which of them there are."""
    token = tl.program_id(0).to(tl.int64) * tokens + tl.arange(0, tokens)
    return token, token < count


@triton.jit
def _projection(x, present, fn, size, row, wanted, tokens: tl.constexpr, rows: tl.constexpr, block: tl.constexpr):
    """Of tokens' `size` numbers at x: their products with these rows of fn, and the sums of their squares."""
    products, squares = tl.zeros((tokens, rows), tl.float32), tl.zeros((tokens,), tl.float32)
    for begin in range(0, size, block):
        at = begin + tl.arange(0, block)
        seen = present[:, None] & (at < size)[None, :]
        values = tl.load(x[:, None] + at[None, :], mask=seen, other=0.0).to(tl.float32)
        there = wanted[:, None] & (at < size)[None, :]
        weights = tl.load(fn + row[:, None] * size + at[None, :], mask=there, other=0.0)
        products += tl.sum(weights[None, :, :] * values[:, None, :], 2)
        squares += tl.sum(values * values, 1)
    return products, squares


@triton.jit
def _collapse(x, present, pre, y, n, width, rows: tl.constexpr, block: tl.constexpr):
    """y = sum_i pre[i] x[i] of tokens' streams."""
    stream = tl.arange(0, rows)
    for begin in range(0, width, block):
        at = begin + tl.arange(0, block)
        seen = present[:, None] & (at < width)[None, :]
        there = seen[:, None, :] & (stream < n)[None, :, None]
        places = x[:, None, None] + stream[None, :, None] * width + at[None, None, :]
        values = tl.load(places, mask=there, other=0.0).to(tl.float32)
        total = tl.sum(values * pre[:, :, None], 1)
        tl.store(y[:, None] + at[None, :], total.to(y.dtype.element_ty), mask=seen)


@triton.jit
def _sigmoid(a):
    return 1.0 / (1.0 + tl.exp(-a))


@triton.jit
def _sinkhorn(logits, there, iters, eps):
    """`sinkhorn(softmax(logits, -1) + eps)` of each token's square, 0 where nothing is."""
    peak = tl.max(tl.where(there, logits, float("-inf")), 2)
    peak = tl.where(peak == float("-inf"), 0.0, peak)  # of a row where nothing is
    comb = tl.where(there, tl.exp(logits - peak[:, :, None]), 0.0)
    total = tl.sum(comb, 2)
    comb = tl.where(there, comb / tl.where(total == 0.0, 1.0, total)[:, :, None] + eps, 0.0)
    comb = comb / (tl.sum(comb, 1) + eps)[:, None, :]
    for _ in range(1, iters):
        comb = comb / (tl.sum(comb, 2) + eps)[:, :, None]
        comb = comb / (tl.sum(comb, 1) + eps)[:, None, :]
    return comb


@triton.jit
def _pre_token(
    streams, fn, scale, base, y, post, comb, count, n, width, iters, eps, norm_eps,
    tokens: tl.constexpr, rows: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    token, present = _tokens(count, tokens)
    size = n * width
    x = streams + token * size
    stream, place = tl.arange(0, rows), tl.arange(0, rows * rows)
    there = stream < n
    a_pre, squares = _projection(x, present, fn, size, stream, there, tokens, rows, block)
    a_post, _ = _projection(x, present, fn, size, n + stream, there, tokens, rows, block)
    # Entry (i, j) of the square has its row of fn; a square is padded to powers of two.
    i, j = place // rows, place % rows
    inside, row = (i < n) & (j < n), 2 * n + i * n + j
    a_comb, _ = _projection(x, present, fn, size, row, inside, tokens, rows * rows, block)
    factor = tl.rsqrt(squares / size + norm_eps)[:, None]

    a_pre = a_pre * factor * tl.load(scale) + tl.load(base + stream, mask=there, other=0.0)[None, :]
    a_post = a_post * factor * tl.load(scale + 1) + tl.load(base + n + stream, mask=there, other=0.0)[None, :]
    a_comb = a_comb * factor * tl.load(scale + 2) + tl.load(base + row, mask=inside, other=0.0)[None, :]
    seen = present[:, None] & there[None, :]
    tl.store(post + token[:, None] * n + stream[None, :], 2.0 * _sigmoid(a_post), mask=seen)
    square = seen[:, :, None] & there[None, None, :]
    found = _sinkhorn(tl.reshape(a_comb, (tokens, rows, rows)), square, iters, eps)
    to = comb + ((token * n)[:, None, None] + stream[None, :, None]) * n + stream[None, None, :]
    tl.store(to, found, mask=square)
    pre = tl.where(seen, _sigmoid(a_pre) + eps, 0.0)
    _collapse(x, present, pre, y + token * width, n, width, rows, block)


def mhc_pre(
    streams: Tensor, fn: Tensor, scale: Tensor, base: Tensor, iters: int, eps: float, norm_eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    tokens, n, width = streams.shape
    y = streams.new_empty((tokens, width))
    post, comb = (streams.new_empty(shape, dtype=torch.float32) for shape in ((tokens, n), (tokens, n, n)))
    given = [t.contiguous() for t in (streams, fn, scale, base)]
    numbers = (tokens, n, width, iters, eps, norm_eps)
    blocks = _blocks(*streams.shape)
    launch(_pre_token, (triton.cdiv(tokens, blocks["tokens"]),), *given, y, post, comb, *numbers, **blocks)
    return y, post, comb


def _blocks(tokens: int, n: int, width: int) -> dict[str, int]:
    block = min(int(triton.next_power_of_2(width)), 512)
    return {"tokens": at_once(tokens), "rows": int(triton.next_power_of_2(n)), "block": block}


def _pre(signature: Signature) -> Support:
    return calls.mhc_pre(signature, ACTIVATIONS)


@triton.jit
def _head_token(
    streams, fn, scale, base, y, count, n, width, eps, norm_eps,
    tokens: tl.constexpr, rows: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    token, present = _tokens(count, tokens)
    x, stream = streams + token * n * width, tl.arange(0, rows)
    there = stream < n
    a, squares = _projection(x, present, fn, n * width, stream, there, tokens, rows, block)
    a = a * tl.rsqrt(squares / (n * width) + norm_eps)[:, None] * tl.load(scale)
    a = a + tl.load(base + stream, mask=there, other=0.0)[None, :]
    pre = tl.where(present[:, None] & there[None, :], _sigmoid(a) + eps, 0.0)
    _collapse(x, present, pre, y + token * width, n, width, rows, block)


def mhc_head(streams: Tensor, fn: Tensor, scale: Tensor, base: Tensor, eps: float, norm_eps: float) -> Tensor:
    tokens, n, width = streams.shape
    y = streams.new_empty((tokens, width))
    given = [t.contiguous() for t in (streams, fn, scale, base)]
    numbers, blocks = (tokens, n, width, eps, norm_eps), _blocks(*streams.shape)
    launch(_head_token, (triton.cdiv(tokens, blocks["tokens"]),), *given, y, *numbers, **blocks)
    return y


def _head(signature: Signature) -> Support:
    return calls.mhc_head(signature, ACTIVATIONS)


@triton.jit
def _post_token(
    y, streams, post, comb, mixed, count, n, width, tokens: tl.constexpr, rows: tl.constexpr, block: tl.constexpr
):
    token, present = _tokens(count, tokens)
    stream, at = tl.arange(0, rows), tl.program_id(1) * block + tl.arange(0, block)
    seen, there = present[:, None] & (at < width)[None, :], present[:, None] & (stream < n)[None, :]
    own = tl.load(y + token[:, None] * width + at[None, :], mask=seen, other=0.0).to(tl.float32)
    factors = tl.load(post + token[:, None] * n + stream[None, :], mask=there, other=0.0)
    total = factors[:, :, None] * own[:, None, :]
    for k in range(n):
        by = tl.load(comb + (token * n + k)[:, None] * n + stream[None, :], mask=there, other=0.0)
        row = tl.load(streams + (token * n + k)[:, None] * width + at[None, :], mask=seen, other=0.0).to(tl.float32)
        total += by[:, :, None] * row[:, None, :]
    to = mixed + ((token * n)[:, None, None] + stream[None, :, None]) * width + at[None, None, :]
    tl.store(to, total.to(mixed.dtype.element_ty), mask=there[:, :, None] & (at < width)[None, None, :])


def mhc_post(y: Tensor, streams: Tensor, post: Tensor, comb: Tensor) -> Tensor:
    tokens, n, width = streams.shape
    y, streams, post, comb = (t.contiguous() for t in (y, streams, post, comb))
    mixed, blocks = torch.empty_like(streams), _blocks(*streams.shape)
    grid = (triton.cdiv(tokens, blocks["tokens"]), triton.cdiv(width, blocks["block"]))
    launch(_post_token, grid, y, streams, post, comb, mixed, tokens, n, width, **blocks)
    return mixed


def _post(signature: Signature) -> Support:
    return calls.mhc_post(signature, ACTIVATIONS)


KERNELS = (
    Kernel("mhc_pre", "triton", mhc_pre, _pre),
    Kernel("mhc_head", "triton", mhc_head, _head),
    Kernel("mhc_post", "triton", mhc_post, _post),
)
