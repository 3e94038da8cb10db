"""Residual streams (arXiv 2512.24880): norm, projection and Sinkhorn in one launch, a program for each token."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepport.fit import calls
from deepport.kernel import Kernel, Signature, Support
from deepport_triton.kernels.elementwise import ACTIVATIONS
from deepport_triton.launch import launch


@triton.jit
def _projection(x, fn, size, row, wanted, rows: tl.constexpr, block: tl.constexpr):
    """Of a token's `size` numbers at x: their products with these rows of fn, and the sum of their squares."""
    products, squares = tl.zeros((rows,), tl.float32), tl.zeros((1,), tl.float32)
    for begin in range(0, size, block):
        at = begin + tl.arange(0, block)
        values = tl.load(x + at, mask=at < size, other=0.0).to(tl.float32)
        there = wanted[:, None] & (at < size)[None, :]
        weights = tl.load(fn + row[:, None] * size + at[None, :], mask=there, other=0.0)
        products += tl.sum(weights * values[None, :], 1)
        squares += tl.sum(values * values, 0)
    return products, squares


@triton.jit
def _collapse(x, pre, y, n, width, rows: tl.constexpr, block: tl.constexpr):
    """y = sum_i pre[i] x[i] of one token's streams."""
    stream = tl.arange(0, rows)
    for begin in range(0, width, block):
        at = begin + tl.arange(0, block)
        there = (stream < n)[:, None] & (at < width)[None, :]
        values = tl.load(x + stream[:, None] * width + at[None, :], mask=there, other=0.0).to(tl.float32)
        tl.store(y + at, tl.sum(values * pre[:, None], 0).to(y.dtype.element_ty), mask=at < width)


@triton.jit
def _sigmoid(a):
    return 1.0 / (1.0 + tl.exp(-a))


@triton.jit
def _sinkhorn(logits, there, iters, eps):
    """`sinkhorn(softmax(logits, -1) + eps)` of a square, 0 where nothing is."""
    peak = tl.max(tl.where(there, logits, float("-inf")), 1)
    peak = tl.where(peak == float("-inf"), 0.0, peak)  # of a row where nothing is
    comb = tl.where(there, tl.exp(logits - peak[:, None]), 0.0)
    total = tl.sum(comb, 1)
    comb = tl.where(there, comb / tl.where(total == 0.0, 1.0, total)[:, None] + eps, 0.0)
    comb = comb / (tl.sum(comb, 0) + eps)[None, :]
    for _ in range(1, iters):
        comb = comb / (tl.sum(comb, 1) + eps)[:, None]
        comb = comb / (tl.sum(comb, 0) + eps)[None, :]
    return comb


@triton.jit
def _pre_token(
    streams, fn, scale, base, y, post, comb, n, width, iters, eps, norm_eps, rows: tl.constexpr, block: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    size = n * width
    x = streams + token * size
    stream, place = tl.arange(0, rows), tl.arange(0, rows * rows)
    there = stream < n
    a_pre, squares = _projection(x, fn, size, stream, there, rows, block)
    a_post, _ = _projection(x, fn, size, n + stream, there, rows, block)
    # Entry (i, j) of the square has its row of fn; a square is padded to powers of two.
    i, j = place // rows, place % rows
    inside, row = (i < n) & (j < n), 2 * n + i * n + j
    a_comb, _ = _projection(x, fn, size, row, inside, rows * rows, block)
    factor = tl.rsqrt(squares / size + norm_eps)

    a_pre = a_pre * factor * tl.load(scale) + tl.load(base + stream, mask=there, other=0.0)
    a_post = a_post * factor * tl.load(scale + 1) + tl.load(base + n + stream, mask=there, other=0.0)
    a_comb = a_comb * factor * tl.load(scale + 2) + tl.load(base + row, mask=inside, other=0.0)
    tl.store(post + token * n + stream, 2.0 * _sigmoid(a_post), mask=there)
    square = (stream[:, None] < n) & (stream[None, :] < n)
    found = _sinkhorn(tl.reshape(a_comb, (rows, rows)), square, iters, eps)
    tl.store(comb + token * n * n + stream[:, None] * n + stream[None, :], found, mask=square)
    _collapse(x, tl.where(there, _sigmoid(a_pre) + eps, 0.0), y + token * width, n, width, rows, block)


def mhc_pre(
    streams: Tensor, fn: Tensor, scale: Tensor, base: Tensor, iters: int, eps: float, norm_eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    tokens, n, width = streams.shape
    y = streams.new_empty((tokens, width))
    post, comb = (streams.new_empty(shape, dtype=torch.float32) for shape in ((tokens, n), (tokens, n, n)))
    given = [t.contiguous() for t in (streams, fn, scale, base)]
    blocks = {"rows": triton.next_power_of_2(n), "block": _block(width)}
    launch(_pre_token, (tokens,), *given, y, post, comb, n, width, iters, eps, norm_eps, **blocks)
    return y, post, comb


def _block(width: int) -> int:
    return min(int(triton.next_power_of_2(width)), 512)


def _pre(signature: Signature) -> Support:
    return calls.mhc_pre(signature, ACTIVATIONS)


@triton.jit
def _head_token(streams, fn, scale, base, y, n, width, eps, norm_eps, rows: tl.constexpr, block: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    x, stream = streams + token * n * width, tl.arange(0, rows)
    there = stream < n
    a, squares = _projection(x, fn, n * width, stream, there, rows, block)
    a = a * tl.rsqrt(squares / (n * width) + norm_eps) * tl.load(scale)
    a = a + tl.load(base + stream, mask=there, other=0.0)
    _collapse(x, tl.where(there, _sigmoid(a) + eps, 0.0), y + token * width, n, width, rows, block)


def mhc_head(streams: Tensor, fn: Tensor, scale: Tensor, base: Tensor, eps: float, norm_eps: float) -> Tensor:
    tokens, n, width = streams.shape
    y = streams.new_empty((tokens, width))
    given = [t.contiguous() for t in (streams, fn, scale, base)]
    blocks = {"rows": triton.next_power_of_2(n), "block": _block(width)}
    launch(_head_token, (tokens,), *given, y, n, width, eps, norm_eps, **blocks)
    return y


def _head(signature: Signature) -> Support:
    return calls.mhc_head(signature, ACTIVATIONS)


@triton.jit
def _post_token(y, streams, post, comb, mixed, n, width, rows: tl.constexpr, block: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    stream, at = tl.arange(0, rows), tl.program_id(1) * block + tl.arange(0, block)
    there = (stream < n)[:, None] & (at < width)[None, :]
    own = tl.load(y + token * width + at, mask=at < width, other=0.0).to(tl.float32)
    factors = tl.load(post + token * n + stream, mask=stream < n, other=0.0)
    total = factors[:, None] * own[None, :]
    for k in range(n):
        by = tl.load(comb + (token * n + k) * n + stream, mask=stream < n, other=0.0)
        row = tl.load(streams + (token * n + k) * width + at, mask=at < width, other=0.0).to(tl.float32)
        total += by[:, None] * row[None, :]
    to = mixed + (token * n + stream[:, None]) * width + at[None, :]
    tl.store(to, total.to(mixed.dtype.element_ty), mask=there)


def mhc_post(y: Tensor, streams: Tensor, post: Tensor, comb: Tensor) -> Tensor:
    tokens, n, width = streams.shape
    y, streams, post, comb = (t.contiguous() for t in (y, streams, post, comb))
    mixed, block = torch.empty_like(streams), _block(width)
    grid, rows = (tokens, triton.cdiv(width, block)), triton.next_power_of_2(n)
    launch(_post_token, grid, y, streams, post, comb, mixed, n, width, rows=rows, block=block)
    return mixed


def _post(signature: Signature) -> Support:
    return calls.mhc_post(signature, ACTIVATIONS)


KERNELS = (
    Kernel("mhc_pre", "triton", mhc_pre, _pre),
    Kernel("mhc_head", "triton", mhc_head, _head),
    Kernel("mhc_post", "triton", mhc_post, _post),
)
