"""What Engram hashes with: compressed token ids, multipliers and prime table sizes (arXiv 2601.07372, section 2.2).

The recipe is that of DeepSeek's demo (github.com/deepseek-ai/Engram, engram_demo_v1.py), number for number: any other gives
other rows of a trained table. All tensors are on the CPU, also while a model is built on meta: they are small, and its tables'
sizes come from them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Regex, normalizers
from torch import Tensor

from deepport.errors import BadInput
from deepport_model.config import EngramConfig
from deepport_model.tokenizer import REPLACEMENT, Tokenizer

_SPACE = "\ue000"  # stands for a text that is one space, while Strip removes all others

_NORMAL = normalizers.Sequence(
    [
        normalizers.NFKC(),
        normalizers.NFD(),
        normalizers.StripAccents(),
        normalizers.Lowercase(),
        normalizers.Replace(Regex(r"[ \t\r\n]+"), " "),
        normalizers.Replace(Regex(r"^ $"), _SPACE),
        normalizers.Strip(),
        normalizers.Replace(_SPACE, " "),
    ]
)


def compressed_ids(tokenizer: Tokenizer) -> Tensor:
    """[V] int64: one id for all tokens whose text is the same but for case, accents, Unicode form and outer spaces.

    New ids count up in order of first appearance. A token that is not text by itself (a part of a UTF-8 character) is
    known by its raw form, one that normalises to nothing by its text.
    """
    texts = tokenizer.backend.decode_batch([[i] for i in range(tokenizer.vocab_size)], skip_special_tokens=False)
    new: dict[str | None, int] = {}
    return torch.tensor(
        [new.setdefault(_key(tokenizer, i, text), len(new)) for i, text in enumerate(texts)], device="cpu"
    )


def _key(tokenizer: Tokenizer, id: int, text: str) -> str | None:
    if REPLACEMENT in text:
        return tokenizer.backend.id_to_token(id)
    return _NORMAL.normalize_str(text) or text


def compressed_vocab_size(ids: Tensor) -> int:
    """Distinct ids among `compressed_ids`."""
    return int(ids.max()) + 1


def check_compression(ids: Tensor, config: EngramConfig) -> None:
    """Raise BadInput unless the tokenizer compresses to the size that the configuration was trained with.

    The multipliers depend on the size, so that with another every n-gram reads another row, without any error.
    """
    size = compressed_vocab_size(ids)
    if size != config.compressed_vocab_size:
        raise BadInput(
            f"engram: the tokenizer's {len(ids)} ids compress to {size}, but compressed_vocab_size is "
            f"{config.compressed_vocab_size}; this is not the tokenizer that the table was trained with"
        )


class HashParameters(NamedTuple):
    """What `deepport.ops.engram_hash` takes: multipliers [layers, N], moduli and offsets [layers, N-1, heads], all int64."""

    multipliers: Tensor
    moduli: Tensor
    offsets: Tensor


def hash_parameters(config: EngramConfig) -> HashParameters:
    """The hash of every layer, order (2 first) and head; a layer's tables lie end to end, in that order."""
    moduli = _moduli(config)
    flat = moduli.flatten(1)
    return HashParameters(_multipliers(config), moduli, (flat.cumsum(1) - flat).view_as(moduli))


def table_rows(config: EngramConfig) -> tuple[int, ...]:
    """Rows of each layer's table: the sum of its moduli."""
    return tuple(_moduli(config).flatten(1).sum(1).tolist())


def _multipliers(config: EngramConfig) -> Tensor:
    """[layers, N]: random odd numbers, small enough that id * multiplier stays below 2^63; seeded per layer."""
    bound = (2**63 - 1) // config.compressed_vocab_size // 2
    rows = [
        np.random.default_rng(config.seed + 10007 * layer).integers(0, bound, config.max_ngram_size, dtype=np.int64)
        for layer in config.layer_ids
    ]
    return torch.from_numpy(np.stack(rows) * 2 + 1)


def _moduli(config: EngramConfig) -> Tensor:
    """[layers, N-1, heads]: distinct primes.

    An order's are consecutive from its `engram_vocab_size` up, but for those that an earlier layer or order took.
    """
    taken: set[int] = set()
    shape = (len(config.layer_ids), config.max_ngram_size - 1, config.n_head_per_ngram)
    primes = [_primes(size, shape[2], taken) for _ in config.layer_ids for size in config.engram_vocab_size]
    return torch.tensor(primes, device="cpu").view(shape)


def _primes(start: int, count: int, taken: set[int]) -> list[int]:
    """The first `count` primes from `start` on that are not taken; takes them."""
    found: list[int] = []
    candidate = start
    while len(found) < count:
        if candidate not in taken and is_prime(candidate):
            found.append(candidate)
        candidate += 1
    taken.update(found)
    return found


_WITNESSES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)


def is_prime(n: int) -> bool:
    """Whether n < 2^64 is prime, exactly: Miller-Rabin with the first twelve primes errs only from 3.3e24 on.

    Source: Sorenson and Webster, Strong pseudoprimes to twelve prime bases (arXiv 1509.00864).
    """
    if n < 2:
        return False
    for p in _WITNESSES:
        if n % p == 0:
            return n == p
    twos = ((n - 1) & (1 - n)).bit_length() - 1
    return all(_passes(n, a, twos) for a in _WITNESSES)


def _passes(n: int, a: int, twos: int) -> bool:
    """Whether odd n is a strong probable prime to base a, where n - 1 = odd * 2^twos."""
    x = pow(a, (n - 1) >> twos, n)
    if x in (1, n - 1):
        return True
    for _ in range(twos - 1):
        x = x * x % n
        if x == n - 1:
            return True
    return False
