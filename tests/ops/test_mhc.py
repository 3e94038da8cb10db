"""mhc_pre, mhc_post and mhc_head against transformers' hyper-connections and loops over streams."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.compare import DOUBLE, draw, relative
from oracles.layers import WIDTH, deepseek_config, randomised
from torch import Tensor
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4HyperConnection, DeepseekV4HyperHead

from deepport import ops

EPS, NORM_EPS = 1e-3, 1e-2  # large enough that a missing one shows


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def naive_mixes(streams: Tensor, fn: Tensor) -> list[list[float]]:
    mixes = []
    for token in streams.flatten(1).tolist():
        root = math.sqrt(math.fsum(v * v for v in token) / len(token) + NORM_EPS)
        mixes.append([math.fsum(a * b / root for a, b in zip(row, token, strict=True)) for row in fn.tolist()])
    return mixes


def naive_sinkhorn(logits: list[list[float]], iters: int) -> list[list[float]]:
    n = len(logits)
    m = [[math.exp(v) / math.fsum(map(math.exp, row)) + EPS for v in row] for row in logits]
    for i in range(iters):
        if i > 0:
            m = [[v / (math.fsum(row) + EPS) for v in row] for row in m]
        sums = [math.fsum(m[r][c] for r in range(n)) for c in range(n)]
        m = [[m[r][c] / (sums[c] + EPS) for c in range(n)] for r in range(n)]
    return m


def arguments(n: int, outputs: int, scales: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    fn = draw(1, outputs, n * 6, scale=0.3)
    return draw(0, 5, n, 6), fn, 1 + draw(2, scales, scale=0.2), draw(3, outputs)


@pytest.mark.parametrize(("n", "iters"), [(4, 20), (2, 1), (3, 2)])
def test_pre_is_the_loop(n: int, iters: int) -> None:
    streams, fn, scale, base = arguments(n, n * (2 + n), 3)
    collapsed, post, comb = ops.mhc_pre(streams, fn, scale, base, iters, EPS, NORM_EPS)
    for t, mixes in enumerate(naive_mixes(streams, fn)):
        part = [n * [0] + n * [1] + n * n * [2]][0]
        a = [m * float(scale[p]) + float(b) for m, p, b in zip(mixes, part, base, strict=True)]
        pre = [sigmoid(v) + EPS for v in a[:n]]
        expected = [math.fsum(pre[i] * float(streams[t, i, c]) for i in range(n)) for c in range(6)]
        rows = naive_sinkhorn([a[2 * n + i * n : 2 * n + i * n + n] for i in range(n)], iters)
        assert relative(collapsed[t], torch.tensor(expected, dtype=torch.float64)) < DOUBLE
        assert relative(post[t], torch.tensor([2 * sigmoid(v) for v in a[n : 2 * n]], dtype=torch.float64)) < DOUBLE
        assert relative(comb[t], torch.tensor(rows, dtype=torch.float64)) < DOUBLE


def test_pre_is_transformers_hyper_connection() -> None:
    module = randomised(DeepseekV4HyperConnection(deepseek_config()), 4)
    streams = draw(5, 9, 4, WIDTH).float()
    post, comb, collapsed = module(streams[None])
    ours = ops.mhc_pre(streams, module.fn, module.scale, module.base, 20, 1e-6, 1e-6)
    for found, oracle in zip(ours, (collapsed[0], post[0], comb[0]), strict=True):
        assert relative(found, oracle) < 2e-6  # measured 0


@settings(deadline=None, max_examples=25)
@given(n=st.integers(1, 6), scale=st.floats(0.1, 8), seed=st.integers(0, 99))
def test_columns_of_comb_sum_to_one(n: int, scale: float, seed: int) -> None:
    """Rows do only as far as the iteration has converged."""
    fn = draw(seed, n * (2 + n), n * 8, scale=scale).float()
    base = torch.zeros(n * (2 + n))
    _, _, comb = ops.mhc_pre(draw(seed + 1, 7, n, 8).float(), fn, torch.ones(3), base, 20, 1e-6, 1e-6)
    assert comb.dtype == torch.float32
    assert float((comb.sum(1) - 1).abs().max()) < 1e-5


def test_post_sums_over_the_first_axis_of_comb() -> None:
    y, streams, post, comb = draw(6, 3, 5), draw(7, 3, 4, 5), draw(8, 3, 4), draw(9, 3, 4, 4)
    expected = torch.empty(3, 4, 5, dtype=torch.float64)
    for t in range(3):
        for m in range(4):
            for c in range(5):
                mixed = [float(comb[t, k, m]) * float(streams[t, k, c]) for k in range(4)]
                expected[t, m, c] = math.fsum([float(post[t, m]) * float(y[t, c]), *mixed])
    assert relative(ops.mhc_post(y, streams, post, comb), expected) < DOUBLE


def test_a_stream_goes_where_comb_sends_it() -> None:
    """comb[0, 2] = 1 copies stream 0 to stream 2, as in transformers' `In^T @ Comb`."""
    streams, comb = draw(10, 1, 3, 4), torch.zeros(1, 3, 3)
    comb[0, 0, 2] = 1
    out = ops.mhc_post(torch.zeros(1, 4), streams, torch.ones(1, 3), comb)
    assert torch.equal(out[0, 2], streams[0, 0]) and not out[0, :2].any()


def test_head() -> None:
    streams, fn, scale, base = arguments(3, 3, 1)
    expected = torch.empty(5, 6, dtype=torch.float64)
    for t, mixes in enumerate(naive_mixes(streams, fn)):
        pre = [sigmoid(m * float(scale) + float(b)) + EPS for m, b in zip(mixes, base, strict=True)]
        for c in range(6):
            expected[t, c] = math.fsum(pre[i] * float(streams[t, i, c]) for i in range(3))
    assert relative(ops.mhc_head(streams, fn, scale, base, EPS, NORM_EPS), expected) < DOUBLE


def test_head_is_transformers_hyper_head() -> None:
    module = randomised(DeepseekV4HyperHead(deepseek_config()), 11)
    streams = draw(12, 9, 4, WIDTH).float()
    ours = ops.mhc_head(streams, module.hc_fn, module.hc_scale, module.hc_base, 1e-6, 1e-6)
    assert relative(ours, module(streams[None])[0]) < 2e-6  # measured 0


def test_gradients_are_the_slopes() -> None:
    inputs = [t[:2].requires_grad_() if i == 0 else t.requires_grad_() for i, t in enumerate(arguments(2, 8, 3))]
    pre = partial(ops.mhc_pre, iters=4, eps=EPS, norm_eps=NORM_EPS)
    assert torch.autograd.gradcheck(lambda *a: pre(*a), inputs)
    head = [t.requires_grad_() for t in arguments(2, 2, 1)]
    assert torch.autograd.gradcheck(partial(ops.mhc_head, eps=EPS, norm_eps=NORM_EPS), head)
    shapes = ((2, 3), (2, 2, 3), (2, 2), (2, 2, 2))
    mixed = [draw(20 + i, *shape).requires_grad_() for i, shape in enumerate(shapes)]
    assert torch.autograd.gradcheck(lambda *a: ops.mhc_post(*a), mixed)
