"""What a model must beat: an interpolated, modified Kneser-Ney n-gram model, and xz.

Source: S. F. Chen, J. Goodman, An empirical study of smoothing techniques for language modeling (1999), section 3.
"""

from __future__ import annotations

import lzma
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def bits_per_byte(
    train: Sequence[Sequence[int]],
    held_out: Sequence[Sequence[int]],
    held_out_bytes: int,
    vocab_size: int,
    order: int = 5,
) -> float:
    """Bits that the n-gram model spends on the held-out documents, per byte of their text.

    Documents are token ids as `vocabulary.encode` gives them. Their first token is not predicted; their last, END, is, and
    adds bits but no bytes.
    """
    probabilities = KneserNey(train, vocab_size, order).probabilities(held_out)
    return float(-np.log2(probabilities).sum()) / held_out_bytes


def xz_bits_per_byte(train: Sequence[str], held_out: Sequence[str]) -> float:
    """Bits per byte that the held-out texts add to `xz -9e` of the training texts."""
    before, after = "\0".join(train).encode(), "\0".join(held_out).encode()
    return 8 * (_xz(before + b"\0" + after) - _xz(before)) / len(after)


def _xz(data: bytes) -> int:
    return len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


class _Level(NamedTuple):
    """The n-grams of one length. Their ids are places in `keys`, sorted: id of the first n-1 tokens * V + last token.

    discounted: count less its discount, per n-gram; total and left: counts and discounts summed, per context.
    """

    keys: Ints
    discounted: Floats
    total: Floats
    left: Floats


class KneserNey:
    """p_n(w | h) = max(c(hw) - D(c(hw)), 0) / c(h) + left(h) / c(h) * p_{n-1}(w | h without its first token); p_0 = 1 / V.

    c counts occurrences for the longest n-grams and, for shorter ones, the different tokens that they follow. D has one value
    each for counts of 1, 2 and more, from the counts of counts. left(h) sums the discounts of all w, so that probabilities
    sum to 1. Where h was never seen, p_n = p_{n-1}. Contexts begin with a document: its first token stands for all before it.
    """

    def __init__(self, documents: Sequence[Sequence[int]], vocab_size: int, order: int) -> None:
        self.vocab_size, self.order = vocab_size, order
        tokens, events = self._stream(documents)
        keys, ids = [np.arange(vocab_size)], tokens
        events_ids = [ids[events]]  # per length, the n-gram that ends at each predicted token
        for _ in range(1, order):
            before = np.concatenate([[0], ids[:-1]])
            level, ids = np.unique(before * vocab_size + tokens, return_inverse=True)
            keys.append(level)
            events_ids.append(ids[events])
        counts = np.bincount(events_ids[-1], minlength=len(keys[-1]))
        self._levels = [_level(keys, order - 1, counts, vocab_size)]
        for n in range(order - 2, -1, -1):
            counts = _continuations(events_ids[n + 1], events_ids[n], len(keys[n]))
            self._levels.insert(0, _level(keys, n, counts, vocab_size))

    def probabilities(self, documents: Sequence[Sequence[int]]) -> Floats:
        """Of each token given those before it in its document, for all documents on end; first tokens have none."""
        tokens, events = self._stream(documents)
        context = np.zeros_like(tokens)  # ids of the n-1 tokens before each; -1 where they were never seen
        p = np.full(len(tokens), 1 / self.vocab_size)
        for level in self._levels:
            keys = context * self.vocab_size + tokens
            place = np.searchsorted(level.keys, keys).clip(max=len(level.keys) - 1)
            known = (context >= 0) & (level.keys[place] == keys)
            total = np.where(context >= 0, level.total[context], 0.0)
            seen = total > 0
            mass = np.where(known, level.discounted[place], 0.0) + level.left[context] * p
            p = np.where(seen, mass / np.where(seen, total, 1.0), p)
            context = np.concatenate([[-1], np.where(known, place, -1)[:-1]])
        return p[events]

    def _stream(self, documents: Sequence[Sequence[int]]) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """All tokens, each document's first one `order - 1` times (at least once), and which of them are predicted."""
        repeat = max(self.order - 1, 1)
        tokens = [np.concatenate([np.repeat(d[:1], repeat), d[1:]]) for d in documents]
        events = [np.arange(len(t)) >= repeat for t in tokens]
        return np.concatenate(tokens).astype(np.int64), np.concatenate(events)


def _level(keys: list[Ints], n: int, counts: Ints, vocab_size: int) -> _Level:
    """Of the n-grams of n + 1 tokens."""
    contexts, size = keys[n] // vocab_size, len(keys[n - 1]) if n else 1
    taken = _discounts(counts)[np.minimum(counts, 3)]
    return _Level(keys[n], counts - taken, _sums(contexts, counts, size), _sums(contexts, taken, size))


def _sums(groups: Ints, values: Ints | Floats, size: int) -> Floats:
    return np.bincount(groups, values, size).astype(np.float64)


def _continuations(longer: Ints, shorter: Ints, size: int) -> Ints:
    """For each n-gram, how many different (n+1)-grams end with it; `longer` and `shorter` end at the same tokens."""
    _, first = np.unique(longer, return_index=True)
    return np.bincount(shorter[first], minlength=size)


def _discounts(counts: Ints) -> Floats:
    """[4] taken off counts of 0, 1, 2 and more: i - (i+1) Y n_{i+1} / n_i, where Y = n_1 / (n_1 + 2 n_2).

    At least 0.1, so that nothing has probability 0; and 0.5 where texts are too few to have all of n_1 ... n_4.
    """
    n = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].tolist()
    if not math.prod(n):
        return np.array([0.0, 0.5, 0.5, 0.5])
    y = n[0] / (n[0] + 2 * n[1])
    return np.array([0.0, *(min(max(i - (i + 1) * y * n[i] / n[i - 1], 0.1), i) for i in (1, 2, 3))])
