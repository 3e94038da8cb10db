"""route, dispatch, grouped matrices, swiglu, combine: against transformers' experts and loops over tokens."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.compare import DOUBLE, draw, relative, same_bits
from oracles.layers import WIDTH, deepseek_config, randomised
from torch import Tensor
from torch.nn import functional
from transformers.models.deepseek_v4.modeling_deepseek_v4 import (
    DeepseekV4Experts,
    DeepseekV4HashRouter,
    DeepseekV4TopKRouter,
)

from deepport import formats, ops

SCORING = ["sqrtsoftplus", "sigmoid", "softmax"]


def naive_scores(row: list[float], scoring: str) -> list[float]:
    if scoring == "softmax":
        powers = [math.exp(v - max(row)) for v in row]
        return [p / math.fsum(powers) for p in powers]
    if scoring == "sigmoid":
        return [1 / (1 + math.exp(-v)) for v in row]
    return [math.sqrt(max(v, 0.0) + math.log1p(math.exp(-abs(v)))) for v in row]


def naive_route(
    logits: Tensor, bias: Tensor | None, k: int, scoring: str, scale: float
) -> tuple[list[list[float]], list[list[int]]]:
    weights, ids = [], []
    for row in logits.tolist():
        scores = naive_scores(row, scoring)
        ranked = [s + (0.0 if bias is None else float(bias[e])) for e, s in enumerate(scores)]
        chosen = sorted(range(len(row)), key=lambda e: (-ranked[e], e))[:k]
        total = math.fsum(scores[e] for e in chosen) + 1e-20
        ids.append(chosen)
        weights.append([scores[e] / total * scale for e in chosen])
    return weights, ids


@pytest.mark.parametrize("scoring", SCORING)
@pytest.mark.parametrize("biased", [True, False])
def test_route_is_the_loop(scoring: str, biased: bool) -> None:
    """Logits from -60 to 60: torch's softplus is the identity above 20, which float64 can tell."""
    logits = draw(0, 30, 12, scale=20)
    bias = draw(1, 12) if biased else None
    weights, ids = ops.route(logits, bias, 4, scoring, 1.5)
    expected, chosen = naive_route(logits, bias, 4, scoring, 1.5)
    assert ids.tolist() == chosen and ids.dtype == torch.int32
    assert relative(weights, torch.tensor(expected, dtype=torch.float64)) < DOUBLE
    assert relative(ops.route(logits.float(), bias, 4, scoring, 1.5)[0], weights) < 1e-6  # measured 1.3e-7


@pytest.mark.parametrize("scoring", ["sqrtsoftplus", "sigmoid"])  # transformers cannot score by softmax
def test_learned_routing_is_transformers(scoring: str) -> None:
    module = randomised(DeepseekV4TopKRouter(deepseek_config(scoring_func=scoring)), 0)
    module.e_score_correction_bias.copy_(draw(1, 8))
    logits, weights, ids = module(draw(2, 40, WIDTH).float())
    ours, chosen = ops.route(logits, module.e_score_correction_bias, 3, scoring, module.routed_scaling_factor)
    order, oracle_order = chosen.argsort(-1), ids.argsort(-1)
    assert torch.equal(chosen.gather(1, order).long(), ids.gather(1, oracle_order))
    assert relative(ours.gather(1, order), weights.gather(1, oracle_order)) < 1e-6  # measured 0


def test_hash_routing_is_transformers() -> None:
    module = randomised(DeepseekV4HashRouter(deepseek_config()), 3)
    table = torch.rand(64, 8, generator=torch.Generator().manual_seed(4)).argsort(-1)[:, :3]
    module.tid2eid.copy_(table)
    tokens = torch.randint(0, 64, (40,), generator=torch.Generator().manual_seed(5))
    logits, weights, ids = module(draw(6, 40, WIDTH).float(), tokens)
    ours, chosen = ops.route(logits, None, 3, "sqrtsoftplus", module.routed_scaling_factor, table, tokens)
    assert torch.equal(chosen.long(), ids)
    assert relative(ours, weights) < 1e-6  # measured 0


@settings(deadline=None, max_examples=25)
@given(rows=st.lists(st.lists(st.integers(-2, 2), min_size=7, max_size=7), min_size=1, max_size=5), k=st.integers(1, 7))
def test_route_ties_go_to_the_lowest_id(rows: list[list[int]], k: int) -> None:
    _, ids = ops.route(torch.tensor(rows).float(), torch.zeros(7), k, "sigmoid", 1.0)
    expected = [sorted(range(7), key=lambda e: (-row[e], e))[:k] for row in rows]
    assert ids.tolist() == expected


def test_bias_changes_the_choice_and_not_the_weights() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    bias = torch.tensor([-9.0, 0.0, 0.0, 9.0])
    weights, ids = ops.route(logits, bias, 2, "sigmoid", 2.0)
    assert ids.tolist() == [[3, 1]]
    scores = logits.sigmoid()[0, [3, 1]]
    assert relative(weights[0], 2 * scores / scores.sum()) < 1e-6


def test_scores_of_zero_give_weights_of_zero() -> None:
    weights, ids = ops.route(torch.full((1, 4), -200.0), None, 2, "sqrtsoftplus", 1.5)
    assert ids.tolist() == [[0, 1]] and weights.tolist() == [[0.0, 0.0]]


def test_route_refuses() -> None:
    logits, table, ids = torch.zeros(1, 4), torch.zeros(3, 2, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(
        ValueError, match="no scoring function is called 'relu'; there are: sqrtsoftplus, sigmoid, softmax"
    ):
        ops.route(logits, None, 2, "relu", 1.0)
    for bias, given_table, given_ids in ((torch.zeros(4), table, ids), (None, table, None), (None, None, ids)):
        with pytest.raises(ValueError, match="a table needs input_ids and no bias"):
            ops.route(logits, bias, 2, "sigmoid", 1.0, given_table, given_ids)


# Dispatch and combine

assignments = st.integers(1, 4).flatmap(
    lambda k: st.lists(st.lists(st.integers(-1, 4), min_size=k, max_size=k), min_size=1, max_size=8)
)


@settings(deadline=None, max_examples=25)
@given(rows=assignments)
def test_dispatch_is_a_stable_permutation(rows: list[list[int]]) -> None:
    """Copies of an expert keep the order of tokens; dropped ones lie behind the last expert's."""
    ids = torch.tensor(rows, dtype=torch.int32)
    x = torch.arange(len(rows)).float()[:, None].expand(-1, 3).contiguous()
    copies = [(e, t, j) for t, row in enumerate(rows) for j, e in enumerate(row)]
    order = sorted(copies, key=lambda c: c[0] if c[0] >= 0 else 99)  # Python's sort is stable
    sorted_rows, offsets, inverse = ops.moe_dispatch(x, ids, 5)
    assert sorted_rows[:, 0].tolist() == [t for _, t, _ in order]
    assert offsets.tolist() == [sum(0 <= e < bound for e, _, _ in copies) for bound in range(6)]
    for place, (_, t, j) in enumerate(order):
        assert int(inverse[t, j]) == place
    assert offsets.dtype == inverse.dtype == torch.int32


@settings(deadline=None, max_examples=25)
@given(rows=assignments)
def test_combine_never_reads_dropped_copies(rows: list[list[int]]) -> None:
    """Neither the row of a dropped copy, nor its weight or place, nor in the gradient."""
    ids = torch.tensor(rows, dtype=torch.int32)
    _, offsets, inverse = ops.moe_dispatch(torch.zeros(len(rows), 1), ids, 5)
    y, weights = draw(0, ids.numel(), 3), draw(1, *ids.shape)
    expected = torch.zeros(len(rows), 3, dtype=torch.float64)
    for t, row in enumerate(rows):
        for j, e in enumerate(row):
            if e >= 0:
                expected[t] += weights[t, j] * y[inverse[t, j]]
    y[int(offsets[-1]) :] = torch.nan
    weights[ids < 0] = torch.nan
    inverse[ids < 0] = 2_000_000_000
    found = ops.moe_combine(y.requires_grad_(), weights.requires_grad_(), inverse, ids)
    assert float((found.detach() - expected).abs().max()) < DOUBLE
    found.sum().backward()
    assert y.grad is not None and y.grad.isfinite().all() and not y.grad[int(offsets[-1]) :].any()
    assert weights.grad is not None and weights.grad.isfinite().all() and not weights.grad[ids < 0].any()


# Matrices and activation


@pytest.mark.parametrize("counts", [(3, 0, 0, 5), (0, 0, 0, 0), (0, 7, 0, 0), (1, 1, 1, 1)])
def test_grouped_linear(counts: tuple[int, ...]) -> None:
    offsets = torch.tensor([0, *counts]).cumsum(0).int()
    total = int(offsets[-1])
    x, w = draw(0, total + 2, 6), draw(1, 4, 5, 6)
    x[total:] = torch.nan  # the tail of dropped copies
    found = ops.grouped_linear(x, w, None, formats.PLAIN, offsets)
    experts = [e for e, n in enumerate(counts) for _ in range(n)]
    for r, e in enumerate(experts):
        expected = [math.fsum(a * b for a, b in zip(x[r].tolist(), row, strict=True)) for row in w[e].tolist()]
        assert relative(found[r], torch.tensor(expected, dtype=torch.float64)) < DOUBLE
    assert found.shape == (total + 2, 5) and not found[total:].any()


def test_grouped_linear_is_torchs_grouped_mm() -> None:
    offsets = torch.tensor([0, 8, 8, 24], dtype=torch.int32)
    x, w = draw(2, 24, 32).bfloat16(), draw(3, 3, 16, 32).bfloat16()
    oracle = functional.grouped_mm(x, w.transpose(1, 2), offs=offsets[1:])
    assert relative(ops.grouped_linear(x, w, None, formats.PLAIN, offsets), oracle) < 2**-8  # measured 0


@pytest.mark.parametrize("limit", [None, 1.5])
def test_swiglu(limit: float | None) -> None:
    gate, up = draw(4, 6, 9, scale=3), draw(5, 6, 9, scale=3)
    expected = torch.empty(6, 9, dtype=torch.float64)
    for i in range(6):
        for j in range(9):
            a, b = float(gate[i, j]), float(up[i, j])
            if limit is not None:
                a, b = min(a, limit), max(-limit, min(b, limit))
            expected[i, j] = a / (1 + math.exp(-a)) * b
    assert relative(ops.swiglu(gate, up, limit), expected) < DOUBLE


def test_moe_experts_is_transformers() -> None:
    module = randomised(DeepseekV4Experts(deepseek_config(swiglu_limit=0.5)), 6)
    x, weights = draw(7, 21, WIDTH).float(), draw(8, 21, 3).float().abs()
    ids = (
        torch.rand(21, 8, generator=torch.Generator().manual_seed(9))
        .argsort(-1)[:, :3]
        .masked_fill(
            torch.arange(21)[:, None] % 7 == 0,
            2,  # duplicates are summed
        )
    )
    ids = ids.masked_fill(ids == 5, 0)  # an expert without tokens
    dropped = torch.arange(63).view(21, 3) % 5 == 4
    oracle = module(x, ids.masked_fill(dropped, 8), weights)  # expert 8 of 8 is nobody
    given_ids = ids.masked_fill(dropped, -1).int()
    ours = ops.moe_experts(x, given_ids, weights, module.gate_up_proj, module.down_proj, 0.5)
    assert relative(ours, oracle) < 1e-6  # measured 4.1e-8
    free = ops.moe_experts(x, given_ids, weights, module.gate_up_proj, module.down_proj, None)
    assert relative(free, oracle) > 1e-2


def test_moe_experts_is_exactly_its_parts() -> None:
    x, weights = draw(10, 9, 32).bfloat16(), draw(11, 9, 3).float()
    ids = torch.randint(-1, 4, (9, 3), generator=torch.Generator().manual_seed(12)).int()
    w13, s13 = formats.encode(draw(13, 4, 64, 32), "mxfp4")
    w2, s2 = formats.encode(draw(14, 4, 32, 32), "mxfp4")
    rows, offsets, inverse = ops.moe_dispatch(x, ids, 4)
    gate, up = ops.grouped_linear(rows, w13, s13, "mxfp4", offsets).chunk(2, -1)
    y = ops.grouped_linear(ops.swiglu(gate, up, 1.0), w2, s2, "mxfp4", offsets)
    expected = ops.moe_combine(y, weights, inverse, ids)
    assert same_bits(ops.moe_experts(x, ids, weights, w13, w2, 1.0, s13, s2, "mxfp4"), expected)


def test_gradients_are_the_slopes() -> None:
    ids = torch.tensor([[0, 2], [1, -1], [2, 2]], dtype=torch.int32)
    inputs = [draw(15 + i, *shape).requires_grad_() for i, shape in enumerate(((3, 4), (3, 2), (3, 6, 4), (3, 4, 3)))]
    assert torch.autograd.gradcheck(lambda x, w, w13, w2: ops.moe_experts(x, ids, w, w13, w2, 0.8), inputs)
    assert torch.autograd.gradcheck(lambda x: ops.moe_dispatch(x, ids, 3)[0], inputs[:1])
    logits = draw(20, 3, 5).requires_grad_()
    for scoring in SCORING:
        assert torch.autograd.gradcheck(lambda v, s=scoring: ops.route(v, None, 2, s, 1.5)[0], (logits,))
    offsets = torch.tensor([0, 1, 1, 2], dtype=torch.int32)
    plain = formats.PLAIN
    assert torch.autograd.gradcheck(lambda x, w: ops.grouped_linear(x, w, None, plain, offsets), (inputs[0], inputs[2]))
    gate, up = draw(21, 2, 5).requires_grad_(), draw(22, 2, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: ops.swiglu(a, b, 0.7), (gate, up))


def test_scores_that_underflow_have_a_gradient_of_zero() -> None:
    """The root's slope at softplus(-200) = 0 is infinite, and 0 x inf is NaN."""
    logits = torch.tensor([[-200.0, 1.0, 2.0, 0.0]], requires_grad=True)
    weights, _ = ops.route(logits, None, 2, "sqrtsoftplus", 1.0)
    (weights * torch.tensor([1.0, 3.0])).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[0, 0] == 0
    assert logits.grad[0, 1:3].all()
