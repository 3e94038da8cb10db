"""One generation, streamed and timed: what `deepport run` does between loading and its summary."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING, Literal, TextIO

from deepport.command.request import Prompt
from deepport.command.terminal import progress
from deepport.errors import BadInput

if TYPE_CHECKING:
    from deepport_model import Model


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen, and how many."""

    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    chunk: int


@dataclass
class Generation:
    """A generation as far as it has come.

    Attributes:
        first: seconds from the prompt to the first new token.
        rest: seconds from the first new token to the last so far.
    """

    prompt_tokens: int
    ids: list[int] = field(default_factory=list)
    text: str = ""
    finish: Literal["length", "stop", "interrupted"] = "length"
    first: float = 0.0
    rest: float = 0.0

    @property
    def prefill_rate(self) -> float | None:
        """Prompt tokens a second; None where no token came."""
        return self.prompt_tokens / self.first if self.ids else None

    @property
    def decode_rate(self) -> float | None:
        """New tokens a second, after the first; None where there are none."""
        return (len(self.ids) - 1) / self.rest if len(self.ids) > 1 else None


def prompt_ids(model: Model, prompt: Prompt, seed: int) -> list[int]:
    if prompt.random is not None:
        draw = random.Random(seed)
        return [draw.randrange(model.config.vocab_size) for _ in range(prompt.random)]
    if prompt.ids is not None:
        return list(prompt.ids)
    if model.tokenizer is None:
        raise BadInput("this model has no tokenizer; give the prompt as --prompt-ids 1,2,3 or --random-prompt N")
    return model.tokenizer.encode(prompt.text or "")


def generate(model: Model, prompt: Prompt, sampling: Sampling, out: TextIO | None) -> Generation:
    """Continue a prompt, writing to `out` as it comes: text for a text, ids for ids. Ctrl-C ends it early."""
    ids = prompt_ids(model, prompt, sampling.seed)
    made = Generation(len(ids))
    try:
        for piece in _pieces(model, _tokens(model, ids, sampling, made), text=prompt.text is not None):
            made.text += piece
            if out is not None:
                out.write(piece)
                out.flush()
    except KeyboardInterrupt:
        made.finish = "interrupted"
    finally:
        if out is not None and made.text and not made.text.endswith("\n"):
            out.write("\n")
    return made


def _tokens(model: Model, ids: list[int], sampling: Sampling, made: Generation) -> Iterator[int]:
    """The new ids, noted in `made`."""
    begin = time.perf_counter()
    with progress("reading the prompt", "tokens") as report:
        tokens = model.generate(ids, **vars(sampling), progress=report)
        head = list(islice(tokens, 1))
    made.first = time.perf_counter() - begin
    for id in chain(head, tokens):
        made.rest = time.perf_counter() - begin - made.first
        made.ids.append(id)
        if id in model.config.eos_token_id:
            made.finish = "stop"
        yield id


def _pieces(model: Model, ids: Iterator[int], text: bool) -> Iterator[str]:
    if not text or model.tokenizer is None:
        yield from (f"{' ' if i else ''}{id}" for i, id in enumerate(ids))
        return
    yield from model.tokenizer.pieces(id for id in ids if id not in model.config.eos_token_id)
