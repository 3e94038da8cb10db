"""The demo model's tokenizer: byte-level BPE, trained on the training texts alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from deepport.errors import BadInput
from deepport_model.tokenizer import Tokenizer

BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
"""Ids 0, 1 and 2. `encode` puts BEGIN before a text; END after one is the trainer's, as a prompt has no end."""

VOCABULARY = 4096


def train_tokenizer(texts: Iterable[str], vocab_size: int = VOCABULARY, path: Path | None = None) -> Tokenizer:
    """Train a tokenizer of exactly `vocab_size` tokens, special ones included, and write it to `path` if there is one.

    The same texts give the same file. Raises BadInput where the texts are too few for so many tokens.
    """
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BEGIN, END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # every text can be encoded, whatever was trained on
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, 0)])
    if backend.get_vocab_size() != vocab_size:
        raise BadInput(f"the texts give a tokenizer of {backend.get_vocab_size()} tokens, not of {vocab_size}")
    if path is not None:
        backend.save(str(path))
    return Tokenizer(backend)


def encode(tokenizer: Tokenizer, texts: Iterable[str]) -> list[list[int]]:
    """Token ids per text: BEGIN, the text, END. What is predicted, and counted in bits per byte, is all but BEGIN."""
    end = tokenizer.token_id(END)
    return [[*tokenizer.encode(text), end] for text in texts]


def utf8_bytes(texts: Iterable[str]) -> int:
    """What bits per byte divide by: bytes of the texts; END is none."""
    return sum(len(text.encode()) for text in texts)
