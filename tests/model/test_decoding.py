"""Decode steps of the whole model on the CPU are captured once and replayed: they give what computing each would give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from sessions import Watching
from torch import Tensor

from deepport.policy import Session
from deepport_model.config import Config, EngramConfig
from deepport_model.presets import TINY
from deepport_model.transformer import Transformer, cast, chunks

ENGRAM = EngramConfig((1, 4), (97, 101), 40, n_embed_per_ngram=256, n_head_per_ngram=8)
PROMPTS = (3, 140, 126)
"""Tokens: sequences of which one has no compressed entry yet, and two are beyond the window or soon will be."""


def model(config: Config, dtype: torch.dtype) -> Transformer:
    found = Transformer(config).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in found.parameters():
            p.copy_(0.1 * torch.randn(p.shape, generator=draw))
    if found.engram_token_map is not None:
        found.engram_token_map.copy_(torch.arange(config.vocab_size) % 40)
    return cast(found, dtype)


def decoded(transformer: Transformer, session: Callable[[], Session], steps: int = 20) -> tuple[list[Tensor], str]:
    """The logits of each step for three sequences, and why it was not captured."""
    draw = torch.Generator().manual_seed(1)
    prompts = [torch.randint(0, 256, (n,), generator=draw).tolist() for n in PROMPTS]
    with torch.inference_mode(), session():
        cache = transformer.cache(len(prompts), 200, chunk=64)
        for part in chunks(dict(enumerate(prompts)), 64):
            transformer.step(cache.append(part), cache)
        found = [
            transformer.step(cache.append({slot: [7 * step + slot] for slot in range(len(prompts))}), cache)
            for step in range(steps)
        ]
        return found, cache.decode.refusal if cache.decode else "none was tried"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", [TINY, replace(TINY, engram=ENGRAM)], ids=["plain", "engram"])
def test_replayed_steps_are_what_computed_ones_are(config: Config, dtype: torch.dtype) -> None:
    transformer = model(config, dtype)
    computed, _ = decoded(transformer, Watching)
    replayed, refusal = decoded(transformer, Session)
    assert not refusal
    assert all(torch.equal(a, b) for a, b in zip(computed, replayed, strict=True))
