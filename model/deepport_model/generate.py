"""Generation: prompts in, tokens out as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from deepport.errors import BadInput
from deepport_model.sampling import Sampler
from deepport_model.transformer import CHUNK, Transformer

Progress = Callable[[int, int], None]
"""Called with tokens of the prompts read so far, and in all."""


@dataclass(frozen=True)
class Token:
    """One new token of one sequence."""

    sequence: int
    id: int


def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampler: Sampler,
    *,
    stop: frozenset[int] = frozenset(),
    chunk: int = CHUNK,
    progress: Progress | None = None,
) -> Iterator[Token]:
    """Continue several prompts together, each until a token in `stop` (yielded, too) or `max_new_tokens`.

    A sequence that has ended is left out of later steps. Raises BadInput for an empty prompt or a token id that is not in
    the vocabulary.
    """
    check(model, prompts, max_new_tokens)
    capacity = max(map(len, prompts)) + max_new_tokens
    with torch.inference_mode():
        cache = model.cache(len(prompts), capacity, chunk)
        total = sum(map(len, prompts))
        pending: dict[int, torch.Tensor] = {}
        for read, ended in model.prefill(cache, dict(enumerate(prompts))):
            pending |= ended
            if progress is not None:
                progress(read, total)
        made = [0] * len(prompts)
        while pending:
            chosen = {s: sampler(logits) for s, logits in sorted(pending.items())}
            for sequence, id in chosen.items():
                made[sequence] += 1
                yield Token(sequence, id)
            going = {s: [id] for s, id in chosen.items() if id not in stop and made[s] < max_new_tokens}
            rows = model.step(cache.append(going), cache, "last") if going else ()
            pending = dict(zip(going, rows, strict=True))


def check(model: Transformer, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Refuse (BadInput) an empty prompt, a token id that is not in the vocabulary, and to make no token."""
    if max_new_tokens < 1:
        raise BadInput(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
    if not prompts or not all(len(p) for p in prompts):
        raise BadInput("a prompt is empty; the model needs at least one token to continue")
    size = model.config.vocab_size
    for prompt in prompts:
        if bad := [i for i in prompt if not 0 <= i < size]:
            raise BadInput(f"token id {bad[0]} is not in the model's vocabulary of {size}")
