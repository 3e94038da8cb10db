"""Engram against Qwen4-Exp's memory layers in transformers, a big-integer loop, and float64 loops."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.compare import DOUBLE, draw, relative, same_bits
from oracles.deepseek_v4 import Shape
from oracles.deepseek_v4 import config as model_config
from oracles.layers import WIDTH, qwen_config, randomised
from torch import Tensor
from transformers.cache_utils import DynamicCache
from transformers.models.qwen4_exp.modeling_qwen4_exp import Qwen4ExpTextNGramEmbedding, Qwen4ExpTextPLELayer

from deepport import formats, ops
from deepport_model.attention import Step
from deepport_model.cache import Cache
from deepport_model.config import EngramConfig
from deepport_model.engram import Engram, EngramHash

EOS, N, HEADS = 2, 4, 2

# Hash


class Hash(NamedTuple):
    """One layer's parameters: multipliers [1, N], moduli and offsets [1, N-1, HEADS]."""

    multipliers: Tensor
    moduli: Tensor
    offsets: Tensor


def parameters(seed: int, bound: int = 2**63 - 1) -> Hash:
    g = torch.Generator().manual_seed(seed)
    multipliers = torch.randint(-bound, bound, (1, N), generator=g) | 1
    moduli = torch.randint(2, 400, (1, N - 1, HEADS), generator=g)
    return Hash(multipliers, moduli, (moduli.flatten().cumsum(0) - moduli.flatten()).view_as(moduli))


def wrapped(value: int) -> int:
    """int64 two's complement."""
    return (value + 2**63) % 2**64 - 2**63


def naive_hash(tokens: list[int], dead: list[bool], h: Hash, pad: int, boundary: int | None) -> list[list[int]]:
    """Big integers, one token, order and head at a time, from the whole sequence."""
    rows = []
    for t in range(len(tokens)):
        row = []
        for order in range(2, N + 1):
            mixed, blocked = 0, False
            for back in range(order):
                place = t - back
                blocked |= place < 0 or dead[place] or (back > 0 and tokens[place] == boundary)
                token = pad if blocked else tokens[place]
                mixed ^= wrapped(token * int(h.multipliers[0, back]))
            for head in range(HEADS):
                modulus = int(h.moduli[0, order - 2, head])
                row.append(mixed % modulus + int(h.offsets[0, order - 2, head]))  # Python's % has the modulus's sign
        rows.append(row)
    return rows


def history(tokens: list[int], dead: list[bool], start: int) -> list[int]:
    return [-1 if p < 0 or dead[p] else tokens[p] for p in range(start - N + 1, start)]


token_lists = st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=14)


@settings(deadline=None, max_examples=40)
@given(
    first=token_lists,
    second=token_lists,
    chunk=st.integers(1, 6),
    boundary=st.sampled_from([None, 0]),
    with_dead=st.booleans(),
    seed=st.integers(0, 99),
)
def test_hash_is_the_big_integer_loop_in_any_chunks(
    first: list[tuple[int, bool]],
    second: list[tuple[int, bool]],
    chunk: int,
    boundary: int | None,
    with_dead: bool,
    seed: int,
) -> None:
    """Multipliers over all of int64, so that products wrap and are negative; two sequences, padding rows."""
    h = parameters(seed)
    sequences = [[t for t, _ in s] for s in (first, second)]
    dead = [[with_dead and d for _, d in s] for s in (first, second)]
    expected = [naive_hash(t, d, h, pad=3, boundary=boundary) for t, d in zip(sequences, dead, strict=True)]
    for start in range(0, max(map(len, sequences)), chunk):
        parts = [t[start : start + chunk] for t in sequences]
        ids = torch.tensor([*parts[0], *parts[1], 1]).long()
        gone = torch.tensor([*dead[0][start : start + chunk], *dead[1][start : start + chunk], True])
        before = [history(t, d, min(start, len(t))) for t, d in zip(sequences, dead, strict=True)]
        bounds = torch.tensor([0, *map(len, parts)]).cumsum(0).int()
        found = ops.engram_hash(ids, torch.tensor(before), bounds, *h, 3, boundary, gone if with_dead else None)
        assert found.dtype == torch.int64 and found.shape == (1, len(ids), (N - 1) * HEADS)
        wanted = [row for rows in expected for row in rows[start : start + chunk]]
        assert found[0, :-1].tolist() == wanted


def test_layers_have_their_own_parameters() -> None:
    ids, bounds, before = torch.arange(9), torch.tensor([0, 9], dtype=torch.int32), torch.full((1, N - 1), -1)
    both = [parameters(1), parameters(2)]
    merged = Hash(*(torch.cat(p) for p in zip(*both, strict=True)))
    found = ops.engram_hash(ids, before, bounds, *merged, 3)
    for layer, h in enumerate(both):
        assert torch.equal(found[layer], ops.engram_hash(ids, before, bounds, *h, 3)[0])


def with_parameters(module: Qwen4ExpTextNGramEmbedding, h: Hash) -> None:
    module.layer_multipliers.copy_(h.multipliers[0])
    module.ngram_heads_vocab_sizes.copy_(h.moduli.flatten())
    module.ngram_heads_offsets.copy_(h.offsets.flatten())


@pytest.mark.parametrize("steps", [[60], [1] * 60, [7, 1, 2, 30, 1, 19]], ids=["at once", "tokens", "chunks"])
@torch.no_grad()
def test_hash_is_qwens_bit_for_bit(steps: list[int]) -> None:
    """Pad and boundary are qwen's end of sequence, which every fifth token is."""
    config = qwen_config(ngram_vocab_size_base=500)
    module = Qwen4ExpTextNGramEmbedding(config, 24, 0)
    h = parameters(5)
    with_parameters(module, h)
    caught: list[Tensor] = []
    module.ngram_embedding.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    tokens = torch.randint(0, 64, (60,), generator=torch.Generator().manual_seed(6))
    tokens[::5] = EOS
    cache, start = DynamicCache(config=config), 0
    for n in steps:
        module(tokens[None, start : start + n], cache)
        before = torch.tensor([history(tokens.tolist(), [False] * 60, start)])
        bounds = torch.tensor([0, n], dtype=torch.int32)
        found = ops.engram_hash(tokens[start : start + n], before, bounds, *h, EOS, EOS)
        assert torch.equal(found[0], caught[-1][0])
        start += n


# Gather


@pytest.mark.parametrize("format", ["fp8_e4m3:1x32", "fp8_e4m3fnuz:1x32", "mxfp4", "int8:row"])
def test_gather_dequantises_the_rows(format: str) -> None:
    data, scale = formats.encode(draw(0, 20, 96), format)
    ids = torch.tensor([[3, 19, 0], [3, 3, 7]])
    for dtype in (torch.float32, torch.bfloat16):
        whole = ops.dequantize(data, scale, format, dtype)
        assert same_bits(ops.engram_gather(data, ids, scale, format, dtype), whole[ids])
        meta = ops.engram_gather(data.to("meta"), ids.to("meta"), scale.to("meta"), format, dtype)
        assert meta.shape == (2, 3, 96) and meta.dtype == dtype


def test_gather_refuses() -> None:
    rows = torch.zeros(5, 32)
    for bad in (-1, 5, 1 << 40):
        with pytest.raises(IndexError, match=r"^engram_gather: an id lies outside the table's 5 rows$"):
            ops.engram_gather(rows, torch.tensor([0, bad]))
    data, scale = formats.encode(rows, "fp8_e4m3:32x32")
    with pytest.raises(ValueError, match="a block of fp8_e4m3:32x32 spans several rows"):
        ops.engram_gather(data, torch.tensor([0]), scale, "fp8_e4m3:32x32")


def test_gradients_of_duplicates_add_up() -> None:
    rows, cotangent = draw(0, 4, 3).requires_grad_(), draw(1, 3, 3)
    ops.engram_gather(rows, torch.tensor([2, 0, 2]), dtype=torch.float64).backward(cotangent)
    expected = torch.stack(
        (cotangent[1], torch.zeros(3).double(), cotangent[0] + cotangent[2], torch.zeros(3).double())
    )
    assert rows.grad is not None and relative(rows.grad, expected) < DOUBLE


# Gate


def naive_gate(d: float, clamp: float, zero: str) -> float:
    negative = {"half": d < 0, "copysign": math.copysign(1, d) < 0, "positive": d < 0}[zero]
    x = math.sqrt(max(abs(d), clamp)) * (-1 if negative else 1)
    if d == 0 and zero == "half":
        x = 0.0
    return 1 / (1 + math.exp(-x))


def unit(row: list[float], eps: float) -> list[float]:
    root = math.sqrt(math.fsum(v * v for v in row) / len(row) + eps)
    return [v / root for v in row]


@pytest.mark.parametrize("zero", ["half", "copysign", "positive"])
def test_gate_is_the_loop(zero: str) -> None:
    hidden, key, value, w_h, w_k = (draw(i, *s) for i, s in enumerate(((4, 2, 9), (4, 2, 9), (4, 9), (2, 9), (2, 9))))
    key[0], key[1] = 0.0, key[1] * 1e-9  # exactly zero, and below the clamp but not zero
    expected = torch.empty(4, 2, 9, dtype=torch.float64)
    for t in range(4):
        for s in range(2):
            a, b = unit(hidden[t, s].tolist(), 1e-3), unit(key[t, s].tolist(), 1e-3)
            terms = zip(a, w_h[s].tolist(), b, w_k[s].tolist(), strict=True)
            d = math.fsum(x * u * y * v for x, u, y, v in terms) / 3.0
            expected[t, s] = naive_gate(d, 1e-4, zero) * value[t]
    assert relative(ops.engram_gate(hidden, key, value, w_h, w_k, 1e-3, 1e-4, zero), expected) < DOUBLE


@pytest.mark.parametrize(("zero", "of_plus", "of_minus"), [("half", 0, 0), ("copysign", 1, -1), ("positive", 1, 1)])
def test_conventions_at_zero(zero: str, of_plus: int, of_minus: int) -> None:
    """d is -0.0 only by underflow, as sums start from 0.0: here the least negative float64 is divided by sqrt(9)."""
    hidden, key, ones = torch.zeros(1, 1, 9).double(), torch.zeros(1, 1, 9).double(), torch.ones(1, 9).double()
    hidden[..., 0] = 1
    for least, sign in ((0.0, of_plus), (5e-324, of_plus), (-5e-324, of_minus)):
        key[..., 0] = least
        gate = ops.engram_gate(hidden, key, ones, ones, ones, 1.0, 0.25, zero)
        assert float(gate[0, 0, 0]) == pytest.approx(1 / (1 + math.exp(-sign * 0.5)), rel=1e-14)


def test_gate_refuses_an_unknown_convention() -> None:
    x = torch.ones(1, 1, 1)
    with pytest.raises(
        ValueError, match="no convention for zero is called 'none'; there are: half, copysign, positive"
    ):
        ops.engram_gate(x, x, x[0], x[0], x[0], 1e-6, 1e-6, "none")


def test_no_gradient_passes_the_clamp() -> None:
    """Two tokens: |d| below the clamp, where only the value has a gradient, and above."""
    hidden, key = draw(0, 2, 1, 8), draw(1, 2, 1, 8)
    key[0] *= 1e-12
    leaves = [t.requires_grad_() for t in (hidden, key, draw(2, 2, 8), 1 + draw(3, 1, 8), 1 + draw(4, 1, 8))]
    partial(ops.engram_gate, eps=1e-6, clamp=1e-3, zero="half")(*leaves).sum().backward()
    grads = [leaf.grad for leaf in leaves[:3]]
    for grad in grads[:2]:
        assert grad is not None and not grad[0].any() and grad[1].any()
    assert grads[2] is not None and grads[2].all()


# Convolution and the whole module


def naive_conv(rows: Tensor, w_norm: Tensor, w_conv: Tensor, dilation: int, eps: float) -> tuple[Tensor, Tensor]:
    """One whole sequence [T, n, C]: the result, and the normed rows."""
    tokens, n, c = rows.shape
    table = [[unit(rows[t, s].tolist(), eps) for s in range(n)] for t in range(tokens)]
    normed = torch.tensor(table, dtype=torch.float64).view(tokens, n, c) * w_norm
    out = torch.empty_like(rows)
    kernel = w_conv.shape[1]
    for t in range(tokens):
        for s in range(n):
            for i in range(c):
                lags = [(j, t - j * dilation) for j in range(kernel) if t - j * dilation >= 0]
                mixed = math.fsum(float(w_conv[s * c + i, kernel - 1 - j]) * float(normed[p, s, i]) for j, p in lags)
                out[t, s, i] = rows[t, s, i] + mixed / (1 + math.exp(-mixed))
    return out, normed.flatten(1)


@settings(deadline=None, max_examples=25)
@given(
    steps=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=4),
    kernel=st.integers(1, 4),
    dilation=st.integers(1, 3),
)
def test_convolution_in_any_chunks_is_the_loop(steps: list[tuple[int, int]], kernel: int, dilation: int) -> None:
    """Two sequences grow together; their state is the normed rows of the last tokens, and a third slot is a stranger's."""
    rows = [draw(b, 20, 2, 3) for b in range(2)]
    w_norm, w_conv = 1 + draw(5, 2, 3, scale=0.3), draw(6, 6, kernel)
    expected = [naive_conv(r, w_norm, w_conv, dilation, 1e-3) for r in rows]
    held = (kernel - 1) * dilation
    state = torch.zeros(3, held, 6, dtype=torch.float64)
    state[1] = 7.0
    slots, lengths = torch.tensor([2, 0], dtype=torch.int32), [0, 0]
    for step in steps:
        spans = [slice(low, low + n) for low, n in zip(lengths, step, strict=True)]
        gated = torch.cat((*(r[s] for r, s in zip(rows, spans, strict=True)), torch.full((1, 2, 3), torch.nan)))
        bounds = torch.tensor([0, *step]).cumsum(0).int()
        arguments = (gated, w_norm, w_conv, state, slots, bounds, dilation, 1e-3)
        pure, after = ops.engram_conv(*arguments)
        out = ops.engram_conv_(*arguments)
        assert same_bits(pure, out) and same_bits(after, state) and not out[-1].any()
        wanted = torch.cat([e[s] for (e, _), s in zip(expected, spans, strict=True)])
        if sum(step):
            assert relative(out[:-1], wanted) < DOUBLE
        lengths = [s.stop for s in spans]
    for b, slot in enumerate(slots.tolist()):
        normed = torch.cat((torch.zeros(held, 6).double(), expected[b][1][: lengths[b]]))
        assert held == 0 or float((state[slot] - normed[len(normed) - held :]).abs().max()) < DOUBLE
    assert (state[1] == 7.0).all()


ENGRAM = EngramConfig(
    layer_ids=(0,), engram_vocab_size=(50, 60, 70), compressed_vocab_size=64, max_ngram_size=N, n_head_per_ngram=HEADS,
    n_embed_per_ngram=8, pad_id=EOS, boundary_id=EOS,
)  # fmt: skip


def with_weights_of(oracle: Qwen4ExpTextPLELayer, hasher: EngramHash, eps: float) -> Engram:
    """Our module with the oracle's weights; norm weights there are offsets from 1."""
    config = replace(model_config(Shape(ratios=(0,), hashed=0)), engram=ENGRAM, rms_norm_eps=eps)
    engram = Engram(config, ENGRAM, int(hasher.moduli.sum()))
    with torch.no_grad():
        engram.table.rows.copy_(oracle.ple_embedding.ngram_embedding.weight[: len(engram.table.rows)])
        engram.wk.weight.copy_(oracle.key_proj.weight)
        engram.wv.weight.copy_(oracle.value_proj.weight)
        for ours, theirs in (
            (engram.norm_h, "norm_query"),
            (engram.norm_k, "norm_key"),
            (engram.norm_conv, "norm_conv"),
        ):
            assert ours is not None
            ours.copy_(1 + getattr(oracle, theirs).weight.view(4, WIDTH))
        assert engram.conv is not None
        engram.conv.copy_(oracle.conv1d.weight[:, 0])
    return engram


@pytest.mark.parametrize("steps", [[40], [1] * 16, [3, 1, 20, 1, 15]], ids=["at once", "tokens", "chunks"])
@torch.no_grad()
def test_the_module_is_qwens(steps: list[int]) -> None:
    """Hash, table, projections, gate and convolution together, with qwen's cache beside ours; another sequence in the batch."""
    config = qwen_config(ngram_vocab_size_base=500, rms_norm_eps=1e-5)
    oracle = randomised(Qwen4ExpTextPLELayer(config, 0, 0), 1)
    hasher = EngramHash(ENGRAM)
    with_parameters(oracle.ple_embedding, Hash(hasher.multipliers, hasher.moduli, hasher.offsets))
    engram = with_weights_of(oracle, hasher, 1e-5)
    cache = Cache(
        replace(model_config(Shape(ratios=(0,), hashed=0)), engram=ENGRAM),
        2,
        64,
        64,
        torch.float32,
        torch.device("cpu"),
    )
    theirs, start = DynamicCache(config=config), 0
    tokens = torch.randint(0, 64, (40,), generator=torch.Generator().manual_seed(2))
    tokens[::6] = EOS
    streams = draw(3, 40, 4, WIDTH).float()
    table = engram.table.handle(torch.device("cpu"), torch.float32)
    for n in steps:
        rows = slice(start, start + n)
        expected = oracle(streams[None, rows].flatten(2), tokens[None, rows], theirs)[0].unflatten(-1, (4, WIDTH))
        batch = cache.append({1: tokens[rows].tolist(), 0: [5]})
        ids = hasher(torch.arange(64), batch.input_ids, batch.history, batch.cu_seqlens)[0]
        step = cast("Step", SimpleNamespace(batch=batch))
        given_streams = torch.cat((streams[rows], streams[:1]))
        out = engram(given_streams, table.prefetch(ids), step, cache.layers[0])
        assert relative(out[:n] - streams[rows], expected) < 3e-6  # measured 4.8e-7
        start += n


def test_gradients_are_the_slopes() -> None:
    shapes: Any = ((2, 2, 3), (2, 2, 3), (2, 3), (2, 3), (2, 3))
    leaves = [draw(30 + i, *shape).requires_grad_() for i, shape in enumerate(shapes)]
    assert torch.autograd.gradcheck(partial(ops.engram_gate, eps=1e-3, clamp=1e-6, zero="half"), leaves)
    state, slots = draw(40, 2, 4, 6), torch.tensor([1], dtype=torch.int32)
    bounds = torch.tensor([0, 5], dtype=torch.int32)
    inputs = [draw(41, 6, 2, 3).requires_grad_(), draw(42, 2, 3).requires_grad_(), draw(43, 6, 3).requires_grad_()]

    def out(gated: Tensor, w_norm: Tensor, w_conv: Tensor) -> Tensor:
        return ops.engram_conv(gated, w_norm, w_conv, state, slots, bounds, 2, 1e-3)[0]

    assert torch.autograd.gradcheck(out, inputs)
