"""Small models on meta, and in memory."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch

from deepport.bench.quantised import Formats, quantise
from deepport.planning.estimate import Planner
from deepport_model.config import Config, EngramConfig
from deepport_model.loading import on_meta
from deepport_model.presets import PRESETS, TINY
from deepport_model.transformer import Transformer, cast, initialize

ENGRAM = EngramConfig(layer_ids=(1, 4), engram_vocab_size=(500, 500), compressed_vocab_size=256, n_embed_per_ngram=256)
WITH_ENGRAM = replace(TINY, engram=ENGRAM)


def paper(config: Config, dtype: torch.dtype = torch.bfloat16, format: str = "plain") -> Transformer:
    """Without data."""
    return quantise(cast(on_meta(config), dtype).to("meta").eval(), Formats.parse(format))


def real(config: Config, dtype: torch.dtype = torch.bfloat16) -> Transformer:
    return cast(initialize(Transformer(config)), dtype).eval()


@cache
def planner(name: str = "tiny", format: str = "plain") -> Planner:
    """Of a preset, or of the tiny one with memories."""
    return Planner(paper(WITH_ENGRAM if name == "tiny-engram" else PRESETS[name], format=format))
