"""Engram's token compression, multipliers and primes against independent code and the official demo's numbers."""

import unicodedata

import pytest
import sympy
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from deepport.errors import BadInput
from deepport_model.config import EngramConfig
from deepport_model.engram_tokens import (
    check_compression,
    compressed_ids,
    compressed_vocab_size,
    hash_parameters,
    is_prime,
    table_rows,
)
from deepport_model.tokenizer import Tokenizer


def words(*tokens: str) -> Tokenizer:
    """A vocabulary of whole texts."""
    return Tokenizer(tokenizers.Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, tokens[0])))


@pytest.mark.parametrize(
    "tokens",
    [
        ("the", "The", " the", "THE ", "\tthe\n", "ｔｈｅ"),
        ("a b", "A \n\t B", " a\r\nb"),
        ("naïve", "naive", "nai\u0308ve", "NAÏVE"),
        (" ", "  ", "\n", "\t \r\n"),
        ("ﬁ", "fi", "FI"),
        ("2", "²", "２"),
    ],
)  # fmt: skip
def test_the_same_text_has_one_id(tokens: tuple[str, ...]) -> None:
    assert compressed_ids(words(*tokens)).tolist() == [0] * len(tokens)


@pytest.mark.parametrize(
    "tokens",
    [
        ("the", "th", "thé "[:2] + "x"),
        (" ", "a", "_"),
        ("\u00a0x\u3000y", "xy"),  # spaces inside a text stay
        ("\x0b", "\x0c", " "),  # Strip leaves nothing of these, so their text is the key
        ("\u0301", "\u0300"),  # nothing is left without accents
        ("ß", "ss"),  # lower case, not case folding
        ("", " "),
    ],
)
def test_other_text_has_another_id(tokens: tuple[str, ...]) -> None:
    assert compressed_ids(words(*tokens)).tolist() == list(range(len(tokens)))


LETTERS = st.text(st.sampled_from("aAbBéÉèß ﬁ²Åｘ\t\n\r \u0301\u00a0-'0ΣσÐд中"), max_size=4)


def key(text: str) -> str:
    """The recipe once more, through Python's unicodedata."""
    plain = "".join(
        c for c in unicodedata.normalize("NFD", unicodedata.normalize("NFKC", text)) if unicodedata.category(c) != "Mn"
    )
    lower = "".join(c.lower() for c in plain)  # by character: no final sigma
    for space in "\t\r\n":
        lower = lower.replace(space, " ")
    while "  " in lower:
        lower = lower.replace("  ", " ")
    return " " if lower == " " else lower.strip() or text


@settings(deadline=None)
@given(st.lists(LETTERS, min_size=1, max_size=40, unique=True))
def test_any_texts_have_one_id_per_key_counting_up(tokens: list[str]) -> None:
    keys = [key(t) for t in tokens]
    first = {k: i for i, k in enumerate(dict.fromkeys(keys))}
    ids = compressed_ids(words(*tokens))
    assert ids.tolist() == [first[k] for k in keys]
    assert ids.dtype == torch.int64 and compressed_vocab_size(ids) == len(first)


def byte_tokens() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({t: i for i, t in enumerate([*alphabet, "Ġthe"])}, []))
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|End|>", "<|end|>", "<|pad|>"])
    return Tokenizer(backend)


def test_parts_of_characters_are_distinct_and_special_tokens_are_text() -> None:
    t = byte_tokens()
    ids = compressed_ids(t)
    high = [i for i in range(256) if "\ufffd" in t.decode([i])]
    assert len(high) == 128 and len({int(ids[i]) for i in high}) == 128
    assert ids[t.token_id("A")] == ids[t.token_id("a")]
    assert ids[t.token_id("<|End|>")] == ids[t.token_id("<|end|>")] != ids[t.token_id("a")]
    lone = [i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet())) if c in "ĠĉĊč"]  # space, \t, \n, \r
    assert len(lone) == 4 and len({int(ids[i]) for i in lone}) == 1
    assert ids[t.token_id("<|pad|>")] != ids[t.token_id("<|end|>")]  # skipped, both would be the empty text
    merged = 128 + 128 - 26 - 3 + 3  # bytes above 127; ASCII without capitals, one space; "the", "<|end|>", "<|pad|>"
    assert compressed_vocab_size(ids) == merged


def engram(**changes: object) -> EngramConfig:
    values = {
        "layer_ids": (1, 14), "engram_vocab_size": (16_000_000,) * 3, "compressed_vocab_size": 99092, "max_ngram_size": 4,
    }  # fmt: skip
    return EngramConfig(**{**values, **changes})  # type: ignore[arg-type]


def test_another_tokenizer_is_refused() -> None:
    ids = compressed_ids(words("a", "A", "b"))
    check_compression(ids, engram(compressed_vocab_size=2))
    with pytest.raises(BadInput, match="3 ids compress to 2, but compressed_vocab_size is 3"):
        check_compression(ids, engram(compressed_vocab_size=3))


def test_rows_of_v41() -> None:
    assert table_rows(engram()) == (384006168, 384016682)


def test_multipliers_of_v41() -> None:
    """What the official demo's lines print for 99092 ids, n-grams to 4, layers 1 and 14, seed 0."""
    assert hash_parameters(engram()).multipliers.tolist() == [
        [76632096046245, 4839876093313, 35959672319349, 73987337458391],
        [67716810739261, 51510806800915, 30921347202721, 82619226485591],
    ]


def test_numbers_of_the_demo() -> None:
    """The official demo's own configuration (engram_demo_v1.py), but for seed 7 and 98765 ids."""
    demo = engram(
        layer_ids=(1, 15), engram_vocab_size=(646400, 646400), max_ngram_size=3, seed=7, compressed_vocab_size=98765
    )
    multipliers, moduli, _ = hash_parameters(demo)
    assert multipliers.tolist() == [
        [11709990008059, 81168590681773, 33200164598717],
        [69334230846401, 6680328575027, 86389595741349],
    ]
    assert moduli.tolist() == [
        [
            [646403, 646411, 646421, 646423, 646433, 646453, 646519, 646523],
            [646537, 646543, 646549, 646571, 646573, 646577, 646609, 646619],
        ],
        [
            [646631, 646637, 646643, 646669, 646687, 646721, 646757, 646771],
            [646781, 646823, 646831, 646837, 646843, 646859, 646873, 646879],
        ],
    ]


@settings(deadline=None)
@given(
    st.lists(st.integers(2, 2**40 - 1) | st.integers(2, 60), min_size=1, max_size=3),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_any_tables_are_distinct_consecutive_primes_end_to_end(sizes: list[int], heads: int, layers: int) -> None:
    config = engram(
        layer_ids=tuple(range(layers)),
        engram_vocab_size=tuple(sizes),
        max_ngram_size=len(sizes) + 1,
        n_head_per_ngram=heads,
    )
    multipliers, moduli, offsets = hash_parameters(config)
    assert multipliers.shape == (layers, len(sizes) + 1) and moduli.shape == offsets.shape == (
        layers,
        len(sizes),
        heads,
    )
    flat = moduli.flatten().tolist()
    assert len(set(flat)) == len(flat)
    seen: set[int] = set()
    for order in moduli.reshape(-1, heads).tolist():
        size = sizes[(len(seen) // heads) % len(sizes)]
        skipped = [p for p in sympy.primerange(size, order[-1] + 1) if p not in seen]
        assert skipped == order
        seen.update(order)
    for row, offset, rows in zip(
        moduli.flatten(1).tolist(), offsets.flatten(1).tolist(), table_rows(config), strict=True
    ):
        assert offset == [sum(row[:i]) for i in range(len(row))] and rows == sum(row)


@settings(deadline=None)
@given(st.integers(1, 2**31 - 1), st.integers(0, 2**31), st.integers(0, 100))
def test_products_do_not_overflow(vocabulary: int, seed: int, layer: int) -> None:
    m = hash_parameters(
        engram(compressed_vocab_size=vocabulary, seed=seed, layer_ids=(layer,), n_head_per_ngram=1)
    ).multipliers
    assert all(v % 2 == 1 and v > 0 and v * (vocabulary - 1) < 2**63 for v in m.flatten().tolist())


def test_sizes_are_real_while_a_model_is_built_on_meta() -> None:
    with torch.device("meta"):
        assert table_rows(engram()) == (384006168, 384016682)
        assert {t.device.type for t in hash_parameters(engram())} == {"cpu"}


@settings(deadline=None)
@given(st.integers(0, 2**64 - 1) | st.integers(0, 3000))
def test_is_prime(n: int) -> None:
    assert is_prime(n) == sympy.isprime(n)


def test_is_prime_where_fewer_witnesses_err() -> None:
    """Strong pseudoprimes to the first 4, 7 and 9 primes (OEIS A014233), and the primes around 2^40."""
    assert not any(map(is_prime, (3215031751, 341550071728321, 3825123056546413051)))
    assert [n for n in range(2**40 - 100, 2**40 + 100) if is_prime(n)] == list(
        sympy.primerange(2**40 - 100, 2**40 + 100)
    )
