"""compress_kv against transformers' compressors and a loop over windows, slots and channels."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.compare import DOUBLE, draw, relative, same_bits
from oracles.layers import LATENT, deepseek_cache, deepseek_config, hidden, randomised
from torch import Tensor
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4CSACompressor, DeepseekV4HCACompressor

from deepport import ops
from deepport.ops.compress import empty_state

Compressor = DeepseekV4CSACompressor | DeepseekV4HCACompressor


class Sequence(NamedTuple):
    kv: Tensor
    gate: Tensor


def sequence(seed: int, tokens: int, channels: int) -> Sequence:
    return Sequence(draw(seed, tokens, channels), draw(seed + 1, tokens, channels))


def naive(s: Sequence, bias: Tensor, ratio: int, overlap: bool) -> Tensor:
    """All entries of a sequence: per window and channel, a list of (logit, value) pairs, written out."""
    size = s.kv.shape[1] // (1 + overlap)
    entries = torch.empty(len(s.kv) // ratio, size, dtype=torch.float64)
    for w in range(len(entries)):
        for c in range(size):
            own = c + size if overlap else c
            slots = [(w * ratio + i, i, own) for i in range(ratio)]
            if overlap and w:
                slots += [((w - 1) * ratio + i, i, c) for i in range(ratio)]
            logits = [float(s.gate[t, k]) + float(bias[i, k]) for t, i, k in slots]
            weights = [math.exp(v - max(logits)) for v in logits]
            total = math.fsum(weights)
            entries[w, c] = (
                math.fsum(e * float(s.kv[t, k]) for e, (t, _, k) in zip(weights, slots, strict=True)) / total
            )
    return entries


class Chunk(NamedTuple):
    """New tokens of some sequences: `spans` by sequence, first and end position."""

    spans: list[tuple[int, int, int]]

    def arguments(self, sequences: list[Sequence], padding: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """kv, gate, slots, positions, cu_seqlens; padding is NaN at positions that mean nothing."""
        rows = [sequences[b].kv[low:high] for b, low, high in self.spans]
        gates = [sequences[b].gate[low:high] for b, low, high in self.spans]
        nothing = rows[0].new_full((padding, rows[0].shape[1]), torch.nan)
        positions = [p for _, low, high in self.spans for p in range(low, high)] + [-7] * padding
        bounds = torch.tensor([0, *(high - low for _, low, high in self.spans)]).cumsum(0).int()
        slots = torch.tensor([b for b, _, _ in self.spans], dtype=torch.int32)
        return torch.cat((*rows, nothing)), torch.cat((*gates, nothing)), slots, torch.tensor(positions).long(), bounds


def by_sequence(chunk: Chunk, found: tuple[Tensor, ...], ratio: int) -> list[Tensor]:
    """The entries of each span, after checking ids, bounds and padding."""
    entries, ids, cu_entries = found[:3]
    tokens = sum(high - low for _, low, high in chunk.spans)
    assert cu_entries.dtype == torch.int32 and ids.dtype == torch.int64
    assert len(entries) == len(ids) >= tokens // ratio + len(chunk.spans)
    parts = []
    for i, (_, low, high) in enumerate(chunk.spans):
        rows = slice(int(cu_entries[i]), int(cu_entries[i + 1]))
        assert ids[rows].tolist() == list(range(low // ratio, high // ratio))
        parts.append(entries[rows])
    end = int(cu_entries[-1])
    assert not entries[end:].any() and (ids[end:] == -1).all()
    return parts


@settings(deadline=None, max_examples=25)
@given(
    steps=st.lists(st.lists(st.integers(0, 7), min_size=3, max_size=3), min_size=1, max_size=5),
    ratio=st.sampled_from([1, 3, 4]),
    overlap=st.booleans(),
    padding=st.integers(0, 2),
)
def test_chunks_give_the_entries_of_the_whole_sequence(
    steps: list[list[int]], ratio: int, overlap: bool, padding: int
) -> None:
    """Three sequences grow by some tokens in each step; their slots are not in order, and one slot is a stranger's."""
    channels = 2 * (1 + overlap)
    sequences = [sequence(10 * b, 40, channels) for b in range(3)]
    bias = draw(99, ratio, channels)
    state = empty_state(4, ratio, overlap, channels, torch.float64, "cpu")
    stranger = state[3].copy_(draw(5, *state[3].shape)).clone()
    lengths, found = [0, 0, 0], [[torch.empty(0, 2).double()] for _ in range(3)]
    for step in steps:
        chunk = Chunk([(b, lengths[b], lengths[b] + step[b]) for b in (2, 0, 1)])
        kv, gate, slots, positions, bounds = chunk.arguments(sequences, padding)
        before = state.clone()
        *pure, after = ops.compress_kv(kv, gate, bias, state, slots, positions, bounds, ratio, overlap)
        assert same_bits(state, before)
        written = ops.compress_kv_(kv, gate, bias, state, slots, positions, bounds, ratio, overlap)
        assert same_bits(state, after) and all(same_bits(a, b) for a, b in zip(pure, written, strict=True))
        for (b, _, high), part in zip(chunk.spans, by_sequence(chunk, written, ratio), strict=True):
            found[b].append(part)
            lengths[b] = high
    for b, s in enumerate(sequences):
        whole = naive(Sequence(s.kv[: lengths[b]], s.gate[: lengths[b]]), bias, ratio, overlap)
        assert relative(torch.cat(found[b]), whole) < DOUBLE
    assert same_bits(state[3], stranger)


@pytest.mark.parametrize("overlap", [False, True])
def test_state_is_kv_and_biased_gate_of_the_unfinished_window(overlap: bool) -> None:
    """With overlap behind the last complete window's; what is not there is kv 0 and gate -inf."""
    ratio, channels = 4, 4
    s, bias = sequence(0, 10, channels), draw(2, ratio, channels)
    state = empty_state(1, ratio, overlap, channels, torch.float64, "cpu")
    expected = torch.zeros(ratio * (1 + overlap), 2 * channels, dtype=torch.float64)
    expected[:, channels:] = -torch.inf
    assert same_bits(state[0], expected)
    kv, gate, slots, positions, bounds = Chunk([(0, 0, 10)]).arguments([s])
    ops.compress_kv_(kv, gate, bias, state, slots, positions, bounds, ratio, overlap)
    for row, t in enumerate(range(4, 10) if overlap else range(8, 10)):
        expected[row, :channels] = s.kv[t]
        expected[row, channels:] = s.gate[t] + bias[t % ratio]
    assert same_bits(state[0], expected)


def test_the_bound_on_entries_is_reached() -> None:
    """Three sequences each lack one token: T // ratio + B = 3 entries from 3 tokens."""
    sequences, bias = [sequence(10 * b, 4, 2) for b in range(3)], draw(1, 4, 2)
    state = empty_state(3, 4, False, 2, torch.float64, "cpu")
    for low, high in ((0, 3), (3, 4)):
        chunk = Chunk([(b, low, high) for b in range(3)])
        kv, gate, slots, positions, bounds = chunk.arguments(sequences)
        found = ops.compress_kv_(kv, gate, bias, state, slots, positions, bounds, 4, False)
    assert found[1].tolist() == [0, 0, 0] and found[2].tolist() == [0, 1, 2, 3]
    assert relative(found[0], torch.cat([naive(s, bias, 4, False) for s in sequences])) < DOUBLE


def test_a_sequence_does_not_depend_on_its_batch() -> None:
    sequences, bias = [Sequence(*(t.float() for t in sequence(10 * b, 20, 4))) for b in range(3)], draw(1, 4, 4).float()
    state = empty_state(3, 4, True, 4, torch.float32, "cpu")

    def compress(chunk: Chunk) -> list[Tensor]:
        kv, gate, slots, positions, bounds = chunk.arguments(sequences)
        return by_sequence(chunk, ops.compress_kv(kv, gate, bias, state, slots, positions, bounds, 4, True), 4)

    spans = [(1, 0, 11), (0, 0, 20), (2, 0, 3)]
    for span, part in zip(spans, compress(Chunk(spans)), strict=True):
        assert same_bits(compress(Chunk([span]))[0], part)


def through_ours(module: Compressor, x: Tensor, steps: list[int], overlap: bool) -> Tensor:
    """All entries, normalised and rotated at their first token's position, as the operator's caller does."""
    ratio, channels = module.compress_rate, module.position_bias.shape[1]
    state = empty_state(1, ratio, overlap, channels, torch.float32, "cpu")
    slots, start, found = torch.zeros(1, dtype=torch.int32), 0, []
    for n in steps:
        part = x[0, start : start + n]
        positions, bounds = torch.arange(start, start + n), torch.tensor([0, n], dtype=torch.int32)
        kv, gate = module.kv_proj(part), module.gate_proj(part)
        entries, ids, cu = ops.compress_kv_(
            kv, gate, module.position_bias, state, slots, positions, bounds, ratio, overlap
        )
        count, start = int(cu[-1]), start + n
        normed = ops.rms_norm(entries[:count], module.kv_norm.weight, 1e-6)
        angles = module.rotary_emb(normed, position_ids=ids[None, :count] * ratio, layer_type="compress")
        found.append(ops.rotary(normed, *(a[0] for a in angles)))
    return torch.cat(found)


@pytest.mark.parametrize("steps", [[300], [127, 1, 1, 130, 41], [1] * 20 + [280]], ids=["at once", "chunks", "tokens"])
@pytest.mark.parametrize("layer", [1, 2], ids=["CSA", "HCA"])
@torch.no_grad()
def test_transformers_compressors(layer: int, steps: list[int]) -> None:
    kind = DeepseekV4CSACompressor if layer == 1 else DeepseekV4HCACompressor
    module = randomised(kind(deepseek_config()), 3)
    x, latent, total = hidden(4, 300), torch.randn(1, 300, LATENT), 0
    cache = deepseek_cache()
    for n in steps:
        rows = slice(total, total + n)
        running, _ = module(x[:, rows], latent[:, rows], torch.arange(total, total + n)[None], cache, layer)
        total += n
    ours = through_ours(module, x, steps, overlap=layer == 1)
    assert ours.shape == (300 // (4 if layer == 1 else 128), 16)
    assert relative(ours, running[0, 0]) < 3e-6  # measured 0
    stateless, _ = module(x, latent, torch.arange(300)[None], None, layer)
    assert relative(ours, stateless[0, 0]) < 3e-6  # measured 1.5e-7


@pytest.mark.parametrize("overlap", [False, True])
def test_gradients_are_the_slopes(overlap: bool) -> None:
    channels = 2 * (1 + overlap)
    kv, gate, slots, positions, bounds = Chunk([(1, 0, 7), (0, 0, 4)]).arguments(
        [sequence(0, 9, channels), sequence(5, 9, channels)]
    )
    state = empty_state(2, 3, overlap, channels, torch.float64, "cpu")
    inputs = [t.requires_grad_() for t in (kv, gate, draw(9, 3, channels))]

    def entries(kv: Tensor, gate: Tensor, bias: Tensor) -> Tensor:
        return ops.compress_kv(kv, gate, bias, state, slots, positions, bounds, 3, overlap)[0]

    assert torch.autograd.gradcheck(entries, inputs)
