"""index_topk and sparse_attention against transformers, torch's own attention, and loops over entries."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.compare import DOUBLE, draw, paged, relative, same_bits
from oracles.deepseek_v4 import Shape
from oracles.deepseek_v4 import config as model_config
from oracles.layers import LATENT, deepseek_config, hidden, randomised
from torch import Tensor
from torch.nn import functional
from transformers.models.deepseek_v4.modeling_deepseek_v4 import (
    DeepseekV4CSACompressor,
    eager_attention_forward,
)

from deepport import ops
from deepport.ops.attention import attention_arguments
from deepport_model.cache import Cache

# Selection


def naive_selection(q: Tensor, weights: Tensor, keys: Tensor, position: int, ratio: int, k: int) -> list[int]:
    """The chosen entries of one token: q [H, D], weights [H], keys [S, D]."""
    scores = {}
    for s in range(min((position + 1) // ratio, len(keys))):
        products = [sum(a * b for a, b in zip(row, keys[s].tolist(), strict=True)) for row in q.tolist()]
        relu = [p if p > 0 or math.isnan(p) else 0.0 for p in products]
        score = sum(w * p for w, p in zip(weights.tolist(), relu, strict=True))
        if not math.isnan(score):
            scores[s] = score
    chosen = sorted(scores, key=lambda s: (-scores[s], s))[:k]
    return sorted(chosen) + [-1] * (k - len(chosen))


def select(
    q: Tensor, weights: Tensor, keys: list[Tensor], spans: list[tuple[int, int]], ratio: int, k: int, page: int = 4
) -> Tensor:
    """index_topk over sequences with these keys, each with new tokens at the positions of its span."""
    pages, table = paged(keys, page, seed=0)
    positions = torch.tensor(
        [p for low, high in spans for p in range(low, high)] + [1 << 40] * (len(q) - span_rows(spans))
    )
    bounds = torch.tensor([0, *(high - low for low, high in spans)]).cumsum(0).int()
    return ops.index_topk(q, weights, pages, table, positions.long(), bounds, ratio, k)


def span_rows(spans: list[tuple[int, int]]) -> int:
    return sum(high - low for low, high in spans)


def naive_rows(
    q: Tensor, weights: Tensor, keys: list[Tensor], spans: list[tuple[int, int]], ratio: int, k: int
) -> list[list[int]]:
    places = [(b, p) for b, (low, high) in enumerate(spans) for p in range(low, high)]
    return [naive_selection(q[t], weights[t], keys[b], p, ratio, k) for t, (b, p) in enumerate(places)]


small = st.integers(-1, 2)


@settings(deadline=None, max_examples=40)
@given(
    keys=st.lists(st.lists(small, min_size=2, max_size=2), min_size=1, max_size=14),
    weights=st.lists(st.integers(-1, 2), min_size=2, max_size=2),
    k=st.integers(1, 16),
    ratio=st.sampled_from([1, 4]),
    page=st.integers(1, 5),
    scale=st.sampled_from([0, 60, -140]),
)
def test_ties_go_to_the_lowest_id(
    keys: list[list[int]], weights: list[int], k: int, ratio: int, page: int, scale: int
) -> None:
    """Whole numbers: scores are exact in float32, also times 2^60 or 2^-140 (denormal), and most are tied."""
    rows = torch.tensor(keys).float()
    tokens = len(rows) * ratio
    q = torch.tensor([[1.0, 2.0], [2.0, -1.0]]).expand(tokens, 2, 2).contiguous() * 2.0**scale
    w = torch.tensor(weights).float().expand(tokens, 2).contiguous()
    found = select(q, w, [rows], [(0, tokens)], ratio, k, page)
    assert found.dtype == torch.int32
    assert found.tolist() == naive_rows(q, w, [rows], [(0, tokens)], ratio, k)


def test_selection_in_a_ragged_batch_is_the_loop() -> None:
    """Longer than a block of rows; unused page rows and the padding's queries are NaN."""
    spans = [(0, 70), (33, 33), (100, 109), (7, 8)]
    keys = [draw(b, high // 4, 8) for b, (_, high) in enumerate(spans)]
    rows = span_rows(spans)
    q, weights = draw(10, rows + 2, 3, 8), draw(11, rows + 2, 3)
    q[rows:] = weights[rows:] = torch.nan
    for k in (1, 6, 40):
        found = select(q, weights, keys, spans, 4, k)
        assert found[:rows].tolist() == naive_rows(q, weights, keys, spans, 4, k)
        assert (found[rows:] == -1).all()
        alone = select(q[70:79], weights[70:79], keys[2:3], spans[2:3], 4, k)
        assert torch.equal(found[70:79], alone)


@pytest.mark.parametrize(("position", "entries"), [(0, 0), (2, 0), (3, 1), (4, 1), (6, 1), (7, 2), (11, 3)])
def test_an_entry_is_a_candidate_from_its_last_token_on(position: int, entries: int) -> None:
    found = select(torch.ones(1, 1, 1), torch.ones(1, 1), [torch.ones(8, 1)], [(position, position + 1)], 4, 5)
    assert found.tolist() == [[*range(entries), *[-1] * (5 - entries)]]


def test_nan_is_never_chosen_and_infinities_are_ranked() -> None:
    top = torch.finfo(torch.float32).max
    keys = torch.tensor([[torch.nan], [torch.inf], [1.0], [top], [torch.nan], [torch.inf], [-torch.inf]])
    q, position = torch.ones(1, 1, 1), [(6, 7)]
    for sign, k, expected in (
        (1.0, 7, [1, 2, 3, 5, 6, -1, -1]),
        (1.0, 1, [1]),
        (1.0, 3, [1, 3, 5]),
        (-1.0, 1, [6]),
        (-1.0, 3, [2, 3, 6]),  # the lowest finite score is still above -inf
        (-1.0, 4, [1, 2, 3, 6]),
    ):
        weights = torch.full((1, 1), sign)
        assert naive_selection(q[0], weights[0], keys, 6, 1, k) == expected
        assert select(q, weights, [keys], position, 1, k).tolist() == [expected]


@pytest.mark.parametrize("steps", [[120], [50, 1, 1, 68]], ids=["at once", "chunks"])
@torch.no_grad()
def test_selection_is_transformers_indexer(steps: list[int]) -> None:
    module = randomised(DeepseekV4CSACompressor(deepseek_config()), 1).indexer
    x, latent = hidden(2, 120), torch.randn(1, 120, LATENT, generator=torch.Generator().manual_seed(3))
    positions = torch.arange(120)[None]
    caught: list[Tensor] = []
    handle = module.scorer.register_forward_hook(lambda _, inputs, __: caught.extend(inputs[:2]))
    oracle = module(x, latent, positions, None, 1)[0]
    handle.remove()
    q, keys = caught[0][0], caught[1][0]
    weights = module.scorer.weights_proj(x[0]) * (8 * 16) ** -0.5
    start = 0
    for n in steps:
        rows = slice(start, start + n)
        found = select(q[rows], weights[rows], [keys], [(start, start + n)], 4, 5)
        for ours, theirs in zip(found.tolist(), oracle[rows].tolist(), strict=True):
            assert set(ours) == set(theirs) and ours == sorted(ours, key=lambda i: (i < 0, i))
        start += n


# Attention


def naive_attention(
    q: Tensor, window: Tensor, extra: Tensor, sink: Tensor | None, position: int, size: int, scale: float
) -> tuple[Tensor, Tensor]:
    """One token: q [H, D], its sequence's keys [S, D], the entries [K, D] that it sees; o [H, D] and lse [H]."""
    seen = [window[s] for s in range(len(window)) if position - size < s <= position] + list(extra)
    outputs, lses = [], []
    for h in range(len(q)):
        scores = [(q[h] * key).sum() * scale for key in seen]
        exps = [s.exp() for s in scores]  # small scores: no shift, unlike the reference
        total = sum(exps, q.new_zeros(()))
        denominator = total if sink is None else total + sink[h].exp()
        o = sum((e / denominator * key for e, key in zip(exps, seen, strict=True)), torch.zeros_like(q[h]))
        outputs.append(o)
        lses.append(total.log())
    return torch.stack(outputs), torch.stack(lses)


class Problem:
    """Sequences with new tokens at their ends, shuffled pages, NaN wherever no key lies and in the padding's queries."""

    def __init__(
        self, spans: list[tuple[int, int]], scope: str, sink: bool = True, page: int = 4, padding: int = 1
    ) -> None:
        self.spans, self.size, self.scale = spans, 5, 0.3
        self.ratio = {"window": 0, "selected": 4, "all": 3}[scope]
        self.places = [(b, p) for b, (low, high) in enumerate(spans) for p in range(low, high)]
        self.window = [draw(b, high, 6) for b, (_, high) in enumerate(spans)]
        entries = [high // self.ratio if self.ratio else 0 for _, high in spans]
        self.entries = [draw(50 + b, n, 6) for b, n in enumerate(entries)]
        self.q = draw(90, len(self.places) + padding, 3, 6)
        self.q[len(self.places) :] = torch.nan
        self.sink: Any = draw(91, 3) if sink else None
        self.positions = torch.tensor([p for _, p in self.places] + [-5] * padding).long()
        self.bounds = torch.tensor([0, *(high - low for low, high in spans)]).cumsum(0).int()
        self.window_pages, self.window_table = paged(self.window, page, 1)
        self.pages: Any = None
        self.table: Any = None
        if self.ratio:
            self.pages, self.table = paged(self.entries, page, 2)
        self.indices = self._indices() if scope == "selected" else None

    def _indices(self) -> Tensor:
        """Up to 4 ready entries in any order, -1 anywhere in the row."""
        g = torch.Generator().manual_seed(7)
        rows = torch.full((len(self.q), 4), -1, dtype=torch.int32)
        for t, (_, p) in enumerate(self.places):
            ids = torch.randperm((p + 1) // 4, generator=g)[:3]
            rows[t, torch.randperm(4, generator=g)[: len(ids)]] = ids.int()
        return rows

    def seen(self, t: int) -> Tensor:
        b, p = self.places[t]
        entries: Tensor = self.entries[b]
        if self.indices is not None:
            return entries[[i for i in self.indices[t].tolist() if i >= 0]]
        return entries[: (p + 1) // self.ratio] if self.ratio else entries

    def ours(self, **changes: Any) -> tuple[Tensor, Tensor]:
        arguments: dict[str, Any] = {
            "q": self.q, "window_pages": self.window_pages, "window_table": self.window_table,
            "compressed_pages": self.pages, "compressed_table": self.table, "indices": self.indices, "sink": self.sink,
            "positions": self.positions, "cu_seqlens": self.bounds, "scale": self.scale, "window_size": self.size,
            "ratio": self.ratio,
        }  # fmt: skip
        return ops.sparse_attention(**(arguments | changes))

    def naive(self) -> tuple[Tensor, Tensor]:
        rows = [
            naive_attention(self.q[t], self.window[b], self.seen(t), self.sink, p, self.size, self.scale)
            for t, (b, p) in enumerate(self.places)
        ]
        return torch.stack([o for o, _ in rows]), torch.stack([lse for _, lse in rows])


SPANS = [(0, 11), (20, 20), (9, 12), (30, 31)]


@pytest.mark.parametrize("sink", [True, False])
@pytest.mark.parametrize("scope", ["window", "selected", "all"])
def test_attention_is_the_loop(scope: str, sink: bool) -> None:
    problem = Problem(SPANS, scope, sink)
    o, lse = problem.ours()
    expected_o, expected_lse = problem.naive()
    real = len(problem.places)
    assert o.dtype == lse.dtype == torch.float64
    assert relative(o[:real], expected_o) < DOUBLE
    assert relative(lse[:real], expected_lse) < DOUBLE
    assert not o[real:].any() and (lse[real:] == -torch.inf).all()


@settings(deadline=None, max_examples=25)
@given(
    spans=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 9)), min_size=1, max_size=3),
    scope=st.sampled_from(["window", "selected", "all"]),
    page=st.integers(1, 7),
    padding=st.integers(0, 2),
)
def test_attention_of_any_batch(spans: list[tuple[int, int]], scope: str, page: int, padding: int) -> None:
    if not any(n for _, n in spans):
        return
    problem = Problem([(low, low + n) for low, n in spans], scope, True, page, padding)
    real = len(problem.places)
    for found, expected in zip(problem.ours(), problem.naive(), strict=True):
        assert relative(found[:real], expected) < DOUBLE


def test_rounds_once() -> None:
    problem = Problem(SPANS, "selected")
    narrow = {n: getattr(problem, n).bfloat16() for n in ("q", "window_pages")}
    narrow["compressed_pages"] = problem.pages.bfloat16()
    o, lse = problem.ours(**narrow)
    exact, exact_lse = problem.ours(**{n: t.double() for n, t in narrow.items()})
    assert o.dtype == torch.bfloat16 and lse.dtype == torch.float32
    real = len(problem.places)
    assert relative(lse[:real], exact_lse[:real]) < 1e-6  # measured 7.5e-8
    assert bool(((o.double() - exact).abs() <= 2**-8 * exact.abs() + 1e-6).all())


@pytest.mark.parametrize("page", [64, 100])
def test_the_window_is_its_last_128_positions(page: int) -> None:
    """Of a token at 200, position 73 is the first in sight and 72 is not."""
    keys = draw(0, 201, 4)
    q = draw(1, 1, 2, 4)

    def attend(keys: Tensor) -> Tensor:
        pages, table = paged([keys], page, 3)
        bounds = torch.tensor([0, 1], dtype=torch.int32)
        return ops.sparse_attention(q, pages, table, None, None, None, None, torch.tensor([200]), bounds, 0.5, 128, 0)[
            0
        ]

    base = attend(keys)
    assert relative(base[0], naive_attention(q[0], keys, keys[:0], None, 200, 128, 0.5)[0]) < DOUBLE
    for position, seen in ((72, False), (73, True), (200, True)):
        changed = keys.clone()
        changed[position] += 1
        assert torch.equal(attend(changed), base) is not seen


def test_dead_rows() -> None:
    """Position -1 and no entry: nothing in sight, with a sink or without, alone or in a batch, and with a gradient."""
    for sink in (None, torch.zeros(3).double()):
        for positions in ([-1, -1], [-1, 3]):
            keys, q = draw(0, 4, 6), draw(1, 2, 3, 6).requires_grad_()
            pages, table = paged([keys], 4, 1)
            indices = torch.full((2, 3), -1, dtype=torch.int32)
            bounds = torch.tensor([0, 2], dtype=torch.int32)
            o, lse = ops.sparse_attention(
                q, pages, table, torch.full_like(pages, torch.nan), table, indices, sink, torch.tensor(positions), bounds,
                0.3, 4, 4,
            )  # fmt: skip
            assert not o[0].any() and (lse[0] == -torch.inf).all()
            assert bool(o[1].any()) is (positions[1] >= 0)
            o.sum().backward()
            assert q.grad is not None and not q.grad[0].any() and q.grad.isfinite().all()


@pytest.mark.parametrize("scope", ["window", "selected", "all"])
def test_attention_is_transformers_with_a_sink(scope: str) -> None:
    """Dense masks over all keys and entries, as transformers builds them."""
    problem = Problem([(0, 40)], scope, padding=0)
    query = problem.q.float()
    dense = torch.cat((problem.window[0], problem.entries[0])).float()
    behind = torch.arange(40)[:, None] - torch.arange(40)
    visible = torch.zeros(40, len(dense), dtype=torch.bool)
    visible[:, :40] = (behind >= 0) & (behind < problem.size)
    for t in range(40):
        if problem.indices is not None:
            visible[t, [40 + i for i in problem.indices[t].tolist() if i >= 0]] = True
        elif problem.ratio:
            visible[t, 40 : 40 + (t + 1) // problem.ratio] = True
    mask = torch.zeros(40, len(dense)).masked_fill(~visible, -torch.inf)
    module: Any = SimpleNamespace(sinks=problem.sink.float(), num_key_value_groups=3, training=False)
    keys = dense[None, None]
    oracle, _ = eager_attention_forward(module, query.transpose(0, 1)[None], keys, keys, mask, problem.scale)
    narrow = {"q": query, "window_pages": problem.window_pages.float(), "sink": problem.sink.float()}
    if problem.pages is not None:
        narrow["compressed_pages"] = problem.pages.float()
    assert relative(problem.ours(**narrow)[0], oracle[0]) < 1e-6  # measured 2.4e-7
    heads = dense.double().expand(3, -1, -1)
    torchs = functional.scaled_dot_product_attention(
        problem.q.transpose(0, 1), heads, heads, attn_mask=visible, scale=problem.scale
    )
    assert relative(problem.ours(sink=None)[0], torchs.transpose(0, 1)) < DOUBLE


@pytest.mark.parametrize("scope", ["window", "selected", "all"])
def test_gradients_are_those_of_the_loop(scope: str) -> None:
    problem = Problem([(0, 6), (5, 9)], scope, padding=1)
    names = ["q", "window_pages", "sink"] + ["compressed_pages"] * (scope != "window")
    cotangent = draw(99, *problem.q.shape)
    leaves: dict[str, Any] = {
        "q": problem.q,
        "window_pages": problem.window_pages,
        "sink": problem.sink,
        "compressed_pages": problem.pages,
    }
    given_leaves = {n: leaves[n].clone().requires_grad_() for n in names}
    ours = torch.autograd.grad((problem.ours(**given_leaves)[0] * cotangent).sum(), list(given_leaves.values()))
    wanted = [problem.q, problem.sink, *problem.window, *problem.entries]
    for tensor in wanted:
        tensor.requires_grad_()
    loss = (problem.naive()[0] * cotangent[: len(problem.places)]).sum()
    q_grad, sink_grad, *rows = torch.autograd.grad(loss, wanted, materialize_grads=True)
    by_name = dict(zip(names, ours, strict=True))
    assert relative(by_name["q"], q_grad) < DOUBLE
    assert relative(by_name["sink"], sink_grad) < DOUBLE
    count = len(problem.spans)
    assert relative(by_name["window_pages"], paged(rows[:count], 4, 1, unused=0.0)[0]) < DOUBLE
    if scope != "window":
        assert relative(by_name["compressed_pages"], paged(rows[count:], 4, 2, unused=0.0)[0]) < DOUBLE


@pytest.mark.parametrize("scope", ["window", "selected", "all"])
def test_a_sequence_does_not_depend_on_its_batch(scope: str) -> None:
    problem = Problem(SPANS, scope)
    together, lse = problem.ours()
    for b, (low, high) in enumerate(zip(problem.bounds, problem.bounds[1:], strict=False)):
        rows = slice(int(low), int(high))
        alone = problem.ours(
            q=problem.q[rows],
            window_table=problem.window_table[b : b + 1],
            compressed_table=None if problem.table is None else problem.table[b : b + 1],
            indices=None if problem.indices is None else problem.indices[rows],
            positions=problem.positions[rows],
            cu_seqlens=torch.tensor([0, rows.stop - rows.start], dtype=torch.int32),
        )
        assert same_bits(alone[0], together[rows]) and same_bits(alone[1], lse[rows])


def test_ring_pages_of_the_cache() -> None:
    """600 positions pass through a ring that holds fewer; every token still sees its whole window."""
    cache = Cache(
        model_config(Shape(ratios=(0, 0), window=70, hashed=0)), 2, 640, 90, torch.float64, torch.device("cpu")
    )
    pages = cache.layers[0].window
    assert len(pages.data) * 64 < 2 * 300
    keys, q = draw(0, 600, 16), draw(1, 600, 2, 16)
    start = 0
    for n in (90, 1, 63, 1, 64, 90, 90, 90, 90, 21):
        batch = cache.append({1: [0] * n})
        table = cache.window_table(batch.slots)
        rows = slice(start, start + n)
        pages.write(table, keys[rows], batch.positions, batch.cu_seqlens)
        o, _ = ops.sparse_attention(
            q[rows], pages.data, table, None, None, None, None, batch.positions, batch.cu_seqlens, 0.1, 70, 0
        )
        for t in {0, n // 2, n - 1}:
            expected, _ = naive_attention(q[start + t], keys, keys[:0], None, start + t, 70, 0.1)
            assert relative(o[t], expected) < DOUBLE
        start += n
    assert start == 600


def test_large_scores_do_not_overflow() -> None:
    """Logits of 1e4: the softmax is one-hot, and lse is the largest logit."""
    keys = torch.eye(4)[:3] * 100
    pages, table = paged([keys], 4, 1)
    q = torch.tensor([[[100.0, 0.0, 0.0, 0.0]]])
    bounds = torch.tensor([0, 1], dtype=torch.int32)
    o, lse = ops.sparse_attention(
        q, pages, table, None, None, None, torch.zeros(1), torch.tensor([2]), bounds, 1.0, 4, 0
    )
    assert o.tolist() == [[[100.0, 0.0, 0.0, 0.0]]] and lse.tolist() == [[10000.0]]


@pytest.mark.parametrize("scope", ["window", "all"])
def test_a_key_that_is_not_seen_has_no_effect(scope: str) -> None:
    """Not even a NaN, written by a later token of the same block, and not on gradients either."""
    g = torch.Generator().manual_seed(0)
    arguments = attention_arguments(g, (20,), (30,), scope, sink=True, dtype=torch.float32)
    q = arguments["q"].requires_grad_()
    o, lse = ops.sparse_attention(**arguments)
    grad = torch.autograd.grad(o[:19].sum(), q)[0]
    # The key of the last token, or the entry of the positions 32 to 47.
    name, entry, seeing = ("window", 49, 19) if scope == "window" else ("compressed", 2, 17)
    spoiled = arguments[f"{name}_pages"].clone()
    spoiled[arguments[f"{name}_table"][0, entry // 8], entry % 8] = torch.nan
    arguments[f"{name}_pages"] = spoiled
    dirty_o, dirty_lse = ops.sparse_attention(**arguments)
    # Close, for torch rounds the exponentials of a vector that has a NaN in it otherwise, by AVX2.
    torch.testing.assert_close(dirty_lse[:seeing], lse[:seeing], rtol=1e-6, atol=0)
    torch.testing.assert_close(dirty_o[:seeing], o[:seeing])
    assert dirty_o[19].isnan().all()
    torch.testing.assert_close(torch.autograd.grad(dirty_o[:seeing].sum(), q)[0][:seeing], grad[:seeing])


def test_where_nothing_is_selected_the_table_may_hold_anything() -> None:
    g = torch.Generator().manual_seed(0)
    arguments = attention_arguments(g, (3,), (2,), "selected", sink=True, dtype=torch.float32)
    arguments["indices"].fill_(-1)
    o, _ = ops.sparse_attention(**arguments)
    arguments["compressed_table"].fill_(2_000_000_000)
    assert torch.equal(ops.sparse_attention(**arguments)[0], o)


@pytest.mark.parametrize("tokens", [1, 9])
def test_equal_keys_tie_wherever_they_are(tokens: int) -> None:
    """At the edge of a matrix product, too, whose columns may be summed in another order."""
    for entries in range(90, 130):
        keys = draw(0, entries, 31).float()[torch.arange(entries) % 7]
        q, weights = draw(entries, tokens, 8, 31).float(), draw(2, tokens, 8).float()
        found = select(q, weights, [keys], [(entries - tokens, entries)], ratio=1, k=20)
        for row in found.tolist():
            taken = [[i for i in row if i % 7 == kind] for kind in range(7)]
            assert all(ids == [kind + 7 * n for n in range(len(ids))] for kind, ids in enumerate(taken))
