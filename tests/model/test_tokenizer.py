"""The tokenizer: what it refuses, and that streamed text is the text decoded at once."""

import contextlib
import functools
import itertools
import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from deepport.errors import BadInput
from deepport_model.tokenizer import REPLACEMENT, Stream, Tokenizer


@functools.cache
def byte_level() -> Tokenizer:
    """As DeepSeek's: byte-level BPE, here with 300 tokens, so that most characters are several tokens."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|begin|>", "<|end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    backend.train_from_iterator(["the words of the text, 中文中文 naïve naïve"] * 4, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    return Tokenizer(backend)


@functools.cache
def byte_fallback() -> Tokenizer:
    """As Llama's first: spaces are U+2581, a leading space is removed, unknown characters are byte tokens."""
    tokens = ["<unk>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "a", "▁a", "b"]
    backend = tokenizers.Tokenizer(
        models.BPE({t: i for i, t in enumerate(tokens)}, [("▁", "a")], byte_fallback=True, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return Tokenizer(backend)


def streamed(tokenizer: Tokenizer, ids: list[int], keep_special: bool = False) -> list[str]:
    stream = Stream(tokenizer, keep_special)
    return [*map(stream.push, ids), stream.flush()]


def test_text_comes_back_and_the_first_token_is_special() -> None:
    t = byte_level()
    ids = t.encode("the words, 中文 🙂")
    assert ids[0] == t.token_id("<|begin|>") and ids[1:] == t.encode("the words, 中文 🙂", add_special=False)
    assert t.decode(ids) == "the words, 中文 🙂"
    assert t.decode([*ids, 1], keep_special=True) == "<|begin|>the words, 中文 🙂<|end|>"


@settings(deadline=None)
@given(st.text())
def test_streamed_text_is_the_text(text: str) -> None:
    assert "".join(streamed(byte_level(), byte_level().encode(text))) == text


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters=REPLACEMENT)))
def test_no_piece_has_half_a_character(text: str) -> None:
    for tokenizer in (byte_level(), byte_fallback()):
        ids = tokenizer.encode(text)
        pieces = streamed(tokenizer, ids)
        assert "".join(pieces) == tokenizer.decode(ids) and REPLACEMENT not in "".join(pieces)


@settings(deadline=None)
@given(st.lists(st.integers(0, 270), max_size=200), st.booleans())
def test_any_ids_stream_as_they_decode(ids: list[int], keep_special: bool) -> None:
    assert "".join(streamed(byte_level(), ids, keep_special)) == byte_level().decode(ids, keep_special)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([0x80, 0xBF, 0xC3, 0xE4, 0xB8, 0xF0, 0x9F, 0x99]), min_size=100, max_size=400))
def test_long_runs_of_broken_bytes_stream_as_they_decode(data: list[int]) -> None:
    """Longer than the window, so that it is cut within characters."""
    ids = [tokens_of_bytes()[byte] for byte in data]
    assert "".join(streamed(byte_level(), ids)) == byte_level().decode(ids) == bytes(data).decode(errors="replace")


@functools.cache
def tokens_of_bytes() -> dict[int, int]:
    """The token of each byte, in GPT-2's alphabet: printable Latin-1 stands for itself, the others follow from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = dict(zip(printable, map(chr, printable), strict=True)) | {b: chr(256 + i) for i, b in enumerate(others)}
    return {byte: byte_level().token_id(letter) for byte, letter in letters.items()}


def test_a_character_appears_when_its_last_byte_does() -> None:
    ids = byte_level().encode("a🙂 b", add_special=False)
    pieces = streamed(byte_level(), ids)
    assert pieces[:5] == ["a", "", "", "", "🙂"] and pieces[-1] == ""


def test_text_is_not_held_back_behind_broken_bytes() -> None:
    stream = Stream(byte_level())
    broken = tokens_of_bytes()[0xE4]
    assert sum(len(stream.push(broken)) for _ in range(1000)) == 984
    assert stream.flush() == REPLACEMENT * 16


def test_flush_starts_anew() -> None:
    stream = Stream(byte_fallback())
    ids = byte_fallback().encode("a a")
    assert "".join([*map(stream.push, ids), stream.flush()]) == "a a"
    assert "".join([*map(stream.push, ids), stream.flush()]) == "a a"


def test_ids_past_the_vocabulary_are_no_text() -> None:
    t = byte_level()
    assert t.vocab_size == t.backend.get_vocab_size()
    assert t.decode([t.vocab_size, *t.encode("the")]) == "the"


def test_file(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    byte_level().backend.save(str(path))
    assert Tokenizer.from_file(path).encode("the words") == byte_level().encode("the words")


WRONG = {
    "": "line 1 column 1",
    "[" * 100_000: "recursion",
    "[]": "invalid type: sequence",
    "{}": "missing",
    '{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [["a", "b"]]}}': "the merge of 'a' and 'b' makes no token",
    '{"model": {"continuing_subword_prefix": "xy", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}}': "makes no token",
    '{"model": {"vocab": {"a": 0}, "merges": ["a"]}}': "",
    '{"version": "9.9"}': "Unknown tokenizer version",
    '{"model": {"type": "BPE", "vocab": {"a": "x"}, "merges": []}}': "",
    '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a zz"]}}': "zz",
    '{"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}': "highest token id is -1",
    '{"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 4294967295}, "merges": []}}': "4294967295",
    '{"x":\n\n\n"y"': "",
}


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_a_wrong_file_is_one_clear_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        Tokenizer.from_file(path)
    line = str(caught.value)
    assert str(path) in line and WRONG[text] in line and "\n" not in line and len(line) < 400


def test_a_file_that_cannot_be_read_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=r"none\.json: cannot be read: No such file"):
        Tokenizer.from_file(tmp_path / "none.json")
    with pytest.raises(BadInput, match="cannot be read: Is a directory"):
        Tokenizer.from_file(tmp_path)
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"{}\xff")
    with pytest.raises(BadInput, match="not UTF-8 at byte 2"):
        Tokenizer.from_file(binary)
    monkeypatch.setattr("deepport_model.tokenizer.MAX_FILE_BYTES", 2)
    with pytest.raises(BadInput, match="3 bytes are too many"):
        Tokenizer.from_file(binary)


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    text = byte_level().backend.to_str()
    path = tmp_path / "tokenizer.json"
    for end in itertools.islice(range(len(text)), 0, None, 97):
        path.write_text(text[:end])
        with pytest.raises(BadInput):
            Tokenizer.from_file(path)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_file_with_other_values_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever replaces one part of the file: a tokenizer or BadInput, never another error."""
    whole = json.loads(byte_level().backend.to_str())
    part = whole
    while True:
        key = data.draw(st.sampled_from(sorted(part) if isinstance(part, dict) else range(len(part))))
        if not isinstance(part[key], dict | list) or not part[key] or data.draw(st.booleans()):
            break
        part = part[key]
    part[key] = data.draw(st.sampled_from([None, -1, 2**40, "x", [], {}, [None], {"type": "BPE"}, True]))
    path = tmp_path_factory.getbasetemp() / "mutated.json"
    path.write_text(json.dumps(whole))
    with contextlib.suppress(BadInput):
        Tokenizer.from_file(path)


def test_what_is_not_text_and_what_is_no_token() -> None:
    with pytest.raises(BadInput, match=r"not valid Unicode: '\\udcff' at character 2"):
        byte_level().encode("ab\udcff")
    with pytest.raises(BadInput, match=r"no token '<\|x\|>'"):
        byte_level().token_id("<|x|>")
