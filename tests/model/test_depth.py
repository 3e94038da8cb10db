"""Far from the start: what is remembered is what the mathematics says, and the last token sees all of it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from model.test_decoding import model
from sessions import References
from torch import Tensor

from deepport.policy import Session
from deepport_model.cache import Cache, LayerCache, Pages
from deepport_model.config import Config
from deepport_model.presets import TINY
from deepport_model.transformer import Transformer

CHUNK = 4096
BOUND = 1e-5
"""max|difference| / max|logits| of kernels and references in float32. Measured: 1.8e-7; a lost page changes them by 1e-3."""


def shallow(ratios: tuple[int, ...]) -> Config:
    return replace(
        TINY, num_hidden_layers=len(ratios), compress_ratios=ratios, hash_layers=(False,) * len(ratios), hidden_size=32,
        num_attention_heads=2, q_lora_rank=16, n_routed_experts=4, num_experts_per_tok=1, moe_intermediate_size=16,
        index_n_heads=1, index_topk=64, max_position_embeddings=2**21,
    )  # fmt: skip


def pages(layer: LayerCache) -> list[Pages]:
    """The window's, then those of entries and keys where there are any."""
    return [layer.window, *(part.pages for part in (layer.entries, layer.keys) if part is not None)]


def widen(cache: Cache) -> None:
    for part in (p for layer in cache.layers for p in pages(layer)):
        part.data = part.data.float()


def walked(transformer: Transformer, depth: int) -> Cache:
    draw = torch.Generator().manual_seed(1)
    cache = transformer.cache(1, depth + 1, CHUNK)
    for _ in range(depth // CHUNK):
        transformer.step(cache.append({0: torch.randint(0, 256, (CHUNK,), generator=draw).tolist()}), cache, "last")
    return cache


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("ratios", "depth"), [((0, 128), 1 << 20), ((0, 4, 128), 1 << 17)], ids=["a million", "with an indexer"]
)
def test_a_walk(ratios: tuple[int, ...], depth: int) -> None:
    config = shallow(ratios)
    with torch.inference_mode(), Session():
        cache = walked(model(config, torch.bfloat16), depth)
    for ratio, layer in zip(ratios, cache.layers, strict=True):
        window, *rest = (p.data.nbytes for p in pages(layer))
        assert window < 2 * (CHUNK + 512) * config.head_dim
        for found, width in zip(rest, (config.head_dim, config.index_head_dim), strict=False):
            assert 2 * width * depth // ratio <= found <= 2 * width * (depth // ratio + 64)
    widen(cache)
    exact = model(config, torch.float32)

    def last(session: type[Session], forgets: int | None = None) -> Tensor:
        """The next token's logits; `forgets`: an early page of the last layer's entries is lost."""
        mine = deepcopy(cache)
        if forgets is not None:
            pages(mine.layers[-1])[1].data[forgets] = 0
        with torch.inference_mode(), session():
            return exact.step(mine.append({0: [7]}), mine)

    expected = last(References)
    scale = expected.abs().max()
    assert (last(Session) - expected).abs().max() < BOUND * scale
    assert (last(Session, forgets=1) - expected).abs().max() > 50 * BOUND * scale, "the check sees a page that is lost"
