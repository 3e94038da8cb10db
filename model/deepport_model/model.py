"""A model ready to be used: weights on a device, a tokenizer, and who serves it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from deepport import backend
from deepport.errors import BadInput
from deepport.policy import Session
from deepport_model.config import Config
from deepport_model.generate import Progress, generate
from deepport_model.sampling import Sampler
from deepport_model.tokenizer import Tokenizer
from deepport_model.transformer import CHUNK, Logits, Transformer


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
        if not isinstance(prompt, str):
            return self._made(list(prompt), max_new_tokens, sampler, chunk, progress)
        if self.tokenizer is None:
            raise BadInput("this model has no tokenizer; give the prompt as token ids")
        made = self._made(self.tokenizer.encode(prompt), max_new_tokens, sampler, chunk, progress)
        return self.tokenizer.pieces(id for id in made if id not in self.config.eos_token_id)

    def _made(
        self, ids: list[int], max_new_tokens: int, sampler: Sampler, chunk: int, progress: Progress | None
    ) -> Iterator[int]:
        """The new ids, the one that ends the text too."""
        stop = frozenset(self.config.eos_token_id)
        tokens = generate(self.transformer, [ids], max_new_tokens, sampler, stop=stop, chunk=chunk, progress=progress)
        return (token.id for token in tokens)

    def session(self, **policy: Any) -> Session:
        """A session (`deepport.policy`) in which this model's backend serves, also where it only simulates a device."""
        simulates = backend.get(self.backend.name).simulates
        return Session(backend=self.backend.name if simulates else None, **policy)
