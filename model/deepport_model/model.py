"""A model ready to be used: weights on a device, a tokenizer, and who serves it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepport import backend
from deepport.errors import BadInput
from deepport.policy import Session
from deepport.table import PLACEMENTS, Placement
from deepport_model.checkpoint import load_weights, read_config
from deepport_model.config import Config
from deepport_model.engram import EngramTable
from deepport_model.engram_tokens import check_compression, compressed_ids
from deepport_model.generate import Progress, generate
from deepport_model.presets import DEMO, PRESETS
from deepport_model.sampling import Sampler
from deepport_model.tokenizer import Stream, Tokenizer
from deepport_model.transformer import CHUNK, Logits, Transformer, initialize

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Model:
    """A language model on a device.

    Attributes:
        transformer: the network, an `nn.Module`; train it with `deepport_model.training`.
        tokenizer: None where the checkpoint has none; prompts are then token ids.
        backend: the backend that was asked for, started.
    """

    def __init__(self, transformer: Transformer, tokenizer: Tokenizer | None, started: backend.Started) -> None:
        self.transformer, self.tokenizer, self.backend = transformer.eval(), tokenizer, started

    @property
    def config(self) -> Config:
        return self.transformer.config

    def __call__(self, input_ids: Tensor, logits: Logits = "all") -> Tensor:
        """input_ids [B, S] int64 -> float32 logits [B, S, V], or [B, 1, V] of the last token only."""
        logits_of: Tensor = self.transformer(input_ids.to(self.transformer.device), logits)
        return logits_of

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        chunk: int = CHUNK,
        progress: Progress | None = None,
    ) -> Iterator[Any]:
        """Continue a prompt, yielding pieces as they come: text for a text, token ids for token ids.

        Greedy at temperature 0. Ends after `max_new_tokens`, or at the model's end-of-text
        token, which is not part of the text.
        `chunk` prompt tokens are read in a step; `progress(read, total)` is called after each.
        """
        sampler = Sampler(temperature, top_p, seed)
        ids = self._encode(prompt) if isinstance(prompt, str) else list(prompt)
        stop = frozenset(self.config.eos_token_id)
        tokens = generate(self.transformer, [ids], max_new_tokens, sampler, stop=stop, chunk=chunk, progress=progress)
        made = (token.id for token in tokens)
        return self._text(i for i in made if i not in stop) if isinstance(prompt, str) else made

    def _encode(self, text: str) -> list[int]:
        if self.tokenizer is None:
            raise BadInput("this model has no tokenizer; give the prompt as token ids")
        return self.tokenizer.encode(text)

    def _text(self, ids: Iterator[int]) -> Iterator[str]:
        assert self.tokenizer is not None  # the prompt was encoded with it
        stream = Stream(self.tokenizer)
        for id in ids:
            if piece := stream.push(id):
                yield piece
        if rest := stream.flush():
            yield rest

    def session(self, **policy: Any) -> Session:
        """A session (`deepport.policy`) in which this model's backend serves, also where it only simulates a device."""
        simulates = backend.get(self.backend.name).simulates
        return Session(backend=self.backend.name if simulates else None, **policy)


def load(
    path_or_preset: str | Path,
    device: str = "auto",
    dtype: str | torch.dtype | None = None,
    *,
    engram: Placement = "device",
    progress: Callable[[int, int], None] | None = None,
) -> Model:
    """A model from a checkpoint directory, or by the name of a preset: `demo`, `mini`, `mini-engram`, `v4-flash`, `v4-pro`.

    Presets other than `demo` have random weights. `dtype` is None for what the checkpoint holds (float32 for random weights),
    quantised weights stay quantised; `engram` says where memory tables lie (`deepport.table`); `progress(done, total)` counts
    bytes. Raises BackendUnavailable, or BadInput for whatever is wrong with the checkpoint.
    """
    if engram not in PLACEMENTS:
        raise BadInput(f"engram={engram!r}: a table is placed on one of: {', '.join(PLACEMENTS)}")
    name, _, index = device.partition(":")
    started = backend.start(backend.choose(name))
    on = torch.device(started.device_type, int(index)) if index else torch.device(started.device_type)
    directory = DEMO if str(path_or_preset) == "demo" else Path(path_or_preset)
    config = PRESETS.get(str(path_or_preset)) or read_config(directory)
    with torch.device("meta"):
        transformer = Transformer(config)
    for module in transformer.modules():
        if isinstance(module, EngramTable):
            module.placement = engram
    wanted = _dtype(dtype)
    if str(path_or_preset) in PRESETS:
        _randomize(transformer, on, wanted or torch.float32, started)
        return Model(transformer, None, started)
    load_weights(transformer, directory, dtype=wanted, device=on, free=started.runtime.memory().free, progress=progress)
    return Model(transformer, _tokenizer(directory, config), started)


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise BadInput(f"dtype {dtype!r} is unknown; there are: {', '.join(DTYPES)}")
    return DTYPES[dtype]


def _tokenizer(directory: Path, config: Config) -> Tokenizer | None:
    path = directory / "tokenizer.json"
    if not path.exists():
        return None
    tokenizer = Tokenizer.from_file(path)
    if tokenizer.vocab_size > config.vocab_size:
        raise BadInput(
            f"{path}: {tokenizer.vocab_size} tokens, but the model has {config.vocab_size}; it belongs to another model"
        )
    if config.engram is not None:
        check_compression(compressed_ids(tokenizer), config.engram)
    return tokenizer


def _randomize(transformer: Transformer, device: torch.device, dtype: torch.dtype, started: backend.Started) -> None:
    """Random weights in place of meta tensors; parameters that are always float32 stay so."""
    for parameter in transformer.parameters():
        if parameter.dim() > 1:
            parameter.data = parameter.data.to(dtype)
    needed = sum(t.numel() * t.element_size() for t in (*transformer.parameters(), *transformer.buffers()))
    if needed > (free := started.runtime.memory().free):
        raise BadInput(f"the model needs {needed / 1e9:.1f} GB on {device}, {free / 1e9:.1f} GB are free")
    transformer.to_empty(device=device)
    initialize(transformer)
