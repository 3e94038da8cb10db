"""Text to token ids and back: `tokenizer.json` through the tokenizers library, with clear errors and streaming."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from deepport.errors import BadInput

MAX_FILE_BYTES = 256 * 2**20  # the largest in use (262,144 tokens) have about 35 MB
MAX_VOCABULARY = 2**24  # ids index embedding rows: one stray id of 2^32 - 1 must not size a table

REPLACEMENT = "\ufffd"  # what bytes that are not UTF-8 (yet) decode to


class Tokenizer:
    """A vocabulary and its rules.

    `vocab_size` is the highest id + 1, added tokens included; ids that the file skips decode to nothing.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self.backend = backend
        self.vocab_size = 1 + max(backend.get_vocab(with_added_tokens=True).values(), default=-1)
        if not 1 <= self.vocab_size <= MAX_VOCABULARY:
            raise BadInput(
                f"tokenizer: the highest token id is {self.vocab_size - 1}; it must be below {MAX_VOCABULARY}"
            )

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """Read a `tokenizer.json`. Raises BadInput with one line for whatever is wrong with it."""
        path = Path(path)
        try:
            size = path.stat().st_size
            if size > MAX_FILE_BYTES:
                raise BadInput(f"{path}: {size} bytes are too many for a tokenizer; at most {MAX_FILE_BYTES}")
            text = path.read_bytes().decode()
        except OSError as e:
            raise BadInput(f"{path}: cannot be read: {e.strerror}") from None
        except UnicodeDecodeError as e:
            raise BadInput(f"{path}: not a tokenizer.json: not UTF-8 at byte {e.start}") from None
        try:
            _check_merges(json.loads(text))
            backend = tokenizers.Tokenizer.from_str(text)
        except Exception as e:  # the library raises nothing more specific
            raise BadInput(f"{path}: not a tokenizer.json: {_one_line(e)}") from None
        try:
            return cls(backend)
        except BadInput as e:
            raise BadInput(f"{path}: {e}") from None

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        """Token ids of a text. With `add_special`, also the tokens that the file puts around a text (often a first one).

        Raises BadInput where the text has half of a surrogate pair, as Python reads bytes that are not UTF-8.
        """
        try:
            text.encode()
        except UnicodeEncodeError as e:
            raise BadInput(f"the text is not valid Unicode: {text[e.start]!a} at character {e.start}") from None
        return list(self.backend.encode(text, add_special_tokens=add_special).ids)

    def decode(self, ids: Sequence[int], keep_special: bool = False) -> str:
        """Text of token ids; special tokens are left out, or written as they are called with `keep_special`."""
        return str(self.backend.decode(ids, skip_special_tokens=not keep_special))

    def pieces(self, ids: Iterable[int]) -> Iterator[str]:
        """The text of ids as they come, in pieces that are complete; together they are `decode` of all."""
        stream = Stream(self)
        for id in ids:
            if piece := stream.push(id):
                yield piece
        if rest := stream.flush():
            yield rest

    def token_id(self, token: str) -> int:
        """Id of a token by name, such as a special token. Raises BadInput where there is none."""
        found: Any = self.backend.token_to_id(token)
        if found is None:
            raise BadInput(f"the tokenizer has no token {token!r}")
        return int(found)


def _check_merges(file: Any) -> None:
    """Raise ValueError where a merge of a BPE makes no token, at which tokenizers 0.23 panics and may end the process.

    Upstream: github.com/huggingface/tokenizers/issues/2198. What is wrong in any other way is left to the library.
    """
    model = file.get("model") if isinstance(file, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
        return
    vocabulary, prefix = model["vocab"], model.get("continuing_subword_prefix") or ""
    for merge in model.get("merges") or ():
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        if not right.startswith(prefix) or left + right[len(prefix) :] not in vocabulary:
            raise ValueError(f"the merge of {left!r} and {right!r} makes no token of the vocabulary")


def _one_line(error: Exception, limit: int = 200) -> str:
    line = " ".join(str(error).split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


class Stream:
    """Token ids in, complete text out, one id at a time: the pieces concatenated are `Tokenizer.decode` of all ids.

    A token may end within a UTF-8 character, which decodes to U+FFFD until its last byte comes; with byte-fallback
    vocabularies, so do the bytes before it. So U+FFFD at the end are held back, but no more of them than that needs. A window
    of recent tokens is decoded again, rather than each token by itself, because decoders treat a first token differently
    (its leading space). The window is bounded, so that a model that writes no text at all costs linear time.

    `tokenizers.decoders.DecodeStream` is not used: with byte-fallback vocabularies it raises on invalid bytes ("Invalid prefix
    encountered"), it cannot flush, and it decodes an unbounded window again for each token while bytes stay invalid. With
    such vocabularies, invalid bytes may be written differently than at once, where one spoils all byte tokens around it.
    """

    _HELD = 16  # U+FFFD at the end: four bytes of a character before, three of the new one, and some to spare
    _KEPT = 64  # tokens in a window that is cut anywhere: more than the bytes of _HELD times U+FFFD
    _LONGEST = 128

    def __init__(self, tokenizer: Tokenizer, keep_special: bool = False) -> None:
        self._tokenizer = tokenizer
        self._keep_special = keep_special
        self._window: list[int] = []
        self._whole = 0  # a character ends with this many of the window's tokens
        self._written = 0  # characters of the window's text that were yielded

    def push(self, id: int) -> str:
        """The text that this token completes; empty while a character is incomplete."""
        self._window.append(id)
        text = self._text()
        held = min(len(text) - len(text.rstrip(REPLACEMENT)), self._HELD)
        piece = text[self._written : len(text) - held]
        if piece and not held:
            self._forget(self._whole, held)
            self._whole = len(self._window)
        elif len(self._window) > self._LONGEST:
            self._forget(len(self._window) - self._KEPT, held)
            self._whole = 0
        else:
            self._written += len(piece)
        return piece

    def flush(self) -> str:
        """What was held back: U+FFFD for bytes that never became a character. The stream then starts anew."""
        rest = self._text()[self._written :]
        self._window, self._whole, self._written = [], 0, 0
        return rest

    def _text(self) -> str:
        return self._tokenizer.decode(self._window, self._keep_special)

    def _forget(self, count: int, held: int) -> None:
        """Drop the window's first tokens; all of the new text but the `held` last characters was yielded."""
        del self._window[:count]
        self._written = len(self._text()) - held
