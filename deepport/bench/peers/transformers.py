"""transformers' `deepseek_v4`, from a checkpoint that we saved in its spelling."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepport.bench.quantised import dequantised
from deepport_model.checkpoint import save_weights
from deepport_model.transformer import Transformer

PACKAGE = "transformers"
MISSING = "transformers is not installed: pip install 'deepport[bench]'"
_SETTINGS = {"attention": "eager", "experts": "eager", "weights": "dequantised where they are quantised"}
"""Its own choices for this architecture on a CPU, and the fastest of them (grouped_mm decodes slower)."""


def write(model: Transformer, folder: Path) -> None:
    """What `start` reads."""
    save_weights(dequantised(model, model.dtype), model.config, folder / "model", naming="transformers")


def about() -> tuple[str, dict[str, str]]:
    return version(PACKAGE), _SETTINGS


def start(folder: Path, threads: int, capacity: int, chunk: int) -> Run:
    torch.set_num_threads(threads)
    return Run(folder / "model", chunk)


class Run:
    """One sequence, read in chunks: with all of a long prompt at once it needs far more memory, and time."""

    def __init__(self, folder: Path, chunk: int) -> None:
        from transformers import AutoModelForCausalLM

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._model: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype="auto", attn_implementation="eager", experts_implementation="eager"
            )
        self._chunk = chunk
        self._cache: Any = None
        self._logits = torch.empty(0)

    def reset(self) -> None:
        self._cache = None

    @torch.inference_mode()
    def feed(self, ids: Sequence[int]) -> None:
        for i in range(0, len(ids), self._chunk):
            new = torch.tensor([ids[i : i + self._chunk]])
            found = self._model(input_ids=new, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
            self._cache, self._logits = found.past_key_values, found.logits[0, -1]

    def logits(self) -> Tensor:
        return self._logits.float()
