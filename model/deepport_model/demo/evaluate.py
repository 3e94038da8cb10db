"""Bits per byte of held-out text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch.nn import functional

from deepport_model.transformer import Transformer


def windows(document: Sequence[int], context: int) -> Iterator[tuple[Sequence[int], int]]:
    """`(tokens, scored)`: spans of at most `context + 1` tokens, the last `scored` of which are to be predicted.

    Spans overlap by half, so that after the first every scored token has at least half a context before it. Together each
    token but the document's first is scored once.
    """
    end = min(context + 1, len(document))
    yield document[:end], end - 1
    while end < len(document):
        previous, end = end, min(end + context // 2, len(document))
        yield document[max(end - context - 1, 0) : end], end - previous


@torch.inference_mode()
def bits_per_byte(
    model: Transformer, documents: Sequence[Sequence[int]], size: int, context: int, tokens: int = 4096
) -> float:
    """Bits spent on all tokens but each document's first, per byte of their text (`size` bytes).

    Windows are computed together, as ragged batches of up to about `tokens` tokens.
    """
    spans = [span for document in documents for span in windows(document, context)]
    bits, group = 0.0, list[tuple[Sequence[int], int]]()
    for span in spans:
        group.append(span)
        if sum(len(s) for s, _ in group) >= tokens or span is spans[-1]:
            bits += _bits(model, group)
            group = []
    return bits / size


def _bits(model: Transformer, group: list[tuple[Sequence[int], int]]) -> float:
    longest = max(len(s) for s, _ in group)
    cache = model.cache(len(group), longest, chunk=longest)
    batch = cache.append({slot: span[:-1] for slot, (span, _) in enumerate(group)})
    rows = model.step(batch, cache).split([len(span) - 1 for span, _ in group])
    total = 0.0
    for logits, (span, scored) in zip(rows, group, strict=True):
        wanted = torch.tensor(span[-scored:], device=logits.device)
        total += float(functional.cross_entropy(logits[-scored:], wanted, reduction="sum"))
    return total / math.log(2)
