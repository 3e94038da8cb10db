"""The demo's texts, tokenizer and baseline."""

import lzma
import math
import random
import sysconfig
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepport.errors import BadInput
from deepport_model.demo import baseline, corpus, vocabulary
from deepport_model.tokenizer import Tokenizer

STDLIB = Path(sysconfig.get_path("stdlib"))

SOURCE = '''"""The module's text."""
import no_such_module
raise SystemExit("parsed, not run")

def plain(a, /, *args: int, k=1, **kw) -> str:
    """Return what is plain.   \\x1b

        Indented.



    Ends.
    """
    def inner():
        """Return what is within."""

class Thing(Base, other.Mixin):
    """A thing."""
    if True:
        async def method(self):
            """Return what is plain.   INDENTED: ends!"""
    def undocumented(self): pass

def wrong():
    "\\d"
'''

TOPICS = """topics = {
    'b': 'Second\\n******\\n\\nShared by both topics.\\n\\nOnly in b.\\n',
    'a': 'First\\n*****\\n\\nShared by both topics.\\n\\nInner\\n-----\\n\\nOf the inner one.\\n\\nEmpty\\n=====\\n',
}
"""


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A standard library of a few files."""
    for name, text in {
        "pack/mod.py": SOURCE,
        "pack/__init__.py": '"""The package."""',
        "pack/tests/test_it.py": '"""A test."""',
        "site-packages/other.py": '"""Not ours."""',
        "pydoc_data/topics.py": TOPICS,
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_docstrings_with_their_headers_in_order(library: Path) -> None:
    (library / "pydoc_data/topics.py").unlink()
    assert list(corpus._documents(library)) == [
        ("module pack", "The package."),
        ("module pack.mod", "The module's text."),
        ("pack.mod.plain(a, /, *args: int, k=1, **kw) -> str", "Return what is plain.\n\n    Indented.\n\nEnds."),
        ("pack.mod.plain.inner()", "Return what is within."),
        ("class pack.mod.Thing(Base, other.Mixin)", "A thing."),
        ("pack.mod.Thing.method(self)", "Return what is plain.   INDENTED: ends!"),
        ("pack.mod.wrong()", "\\d"),
    ]


def test_sections_of_the_language_reference_hold_each_paragraph_once(library: Path) -> None:
    (library / "pack/mod.py").unlink()
    (library / "pack/__init__.py").unlink()
    assert list(corpus._documents(library)) == [
        ("", "First\n*****\n\nShared by both topics."),
        ("", "Inner\n-----\n\nOf the inner one."),
        ("", "Second\n******\n\nOnly in b."),
    ]


def test_long_sections_are_parted_between_paragraphs() -> None:
    paragraphs = [f"{i} " + "word " * 200 for i in range(20)]
    parts = list(corpus._parts(paragraphs))
    assert "\n\n".join(parts) == "\n\n".join(paragraphs)
    assert len(parts) == 7 and all(corpus.PART < len(part) < corpus.PART + 1100 for part in parts[:-1])


def test_texts_that_differ_in_case_and_punctuation_are_one(library: Path) -> None:
    texts = [text for split in corpus.documents(library) for text in split]
    assert sum("indented" in text.lower() for text in texts) == 1
    assert len(texts) == 6 + 3  # seven docstrings less one, three sections


def test_every_second_text_has_its_header(library: Path) -> None:
    functions = "".join(f'def f{i}():\n    """Return the number {i}."""\n' for i in range(400))
    (library / "numbers.py").write_text(functions)
    train, held_out = corpus.documents(library)
    headed = sum(text.startswith("numbers.f") for text in train + held_out)
    assert 150 < headed < 250
    assert 5 < len(held_out) < 40
    assert {text.split("\n")[-1] for text in train}.isdisjoint({text.split("\n")[-1] for text in held_out})
    assert corpus.documents(library) == (train, held_out)


def test_near_duplicates_are_not_held_out(library: Path) -> None:
    long = "a sentence that many functions share, with hardly another word between them, " * 5
    functions = "".join(f'def f{i}():\n    """{long}{i}."""\n' for i in range(400))
    (library / "copies.py").write_text(functions)
    train, held_out = corpus.documents(library)
    assert any("sentence" in text for text in train) and not any("sentence" in text for text in held_out)


def test_overlap_is_the_share_of_known_runs() -> None:
    known = corpus.shingles(["x" * 60, "Short, text"])
    assert known == {"x" * 50, "short text"}
    assert corpus.overlap(["short  TEXT"], known) == 1.0
    assert corpus.overlap(["x" * 50 + "y"], known) == 0.5
    assert corpus.overlap(["other"], known) == 0.0


def test_a_python_without_sources_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no Python source files"):
        corpus.documents(tmp_path)


def test_the_running_python_has_the_language_reference_and_enough_text() -> None:
    tree = corpus._parse(STDLIB / "pydoc_data" / "topics.py")
    sections = list(corpus._sections(tree))
    assert sum(len(s.text) for s in sections) > 200_000
    assert max(len(s.text) for s in sections) < 3 * corpus.PART
    assert any("The “with” statement" in s.text or 'The "with" statement' in s.text for s in sections)


@pytest.fixture(scope="module")
def texts() -> corpus.Split:
    return corpus.documents(STDLIB / "email")


@pytest.fixture(scope="module")
def tokenizer(texts: corpus.Split, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return vocabulary.train_tokenizer(texts.train, 700, tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")


def test_the_tokenizer_has_its_size_and_special_tokens(
    texts: corpus.Split, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    assert tokenizer.vocab_size == 700
    specials = [tokenizer.token_id(t) for t in (vocabulary.BEGIN, vocabulary.END, vocabulary.PAD)]
    assert specials == [0, 1, 2]
    for text, ids in zip(texts.held_out, vocabulary.encode(tokenizer, texts.held_out), strict=True):
        assert ids[0] == 0 and ids[-1] == 1 and tokenizer.decode(ids) == text
    with pytest.raises(BadInput, match=r"give a tokenizer of \d+ tokens, not of 9000"):
        vocabulary.train_tokenizer(["too little"], 9000)


def test_the_same_texts_give_the_same_tokenizer(texts: corpus.Split, tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    vocabulary.train_tokenizer(texts.train, 700, path)
    assert path.read_text() == tokenizer.backend.to_str(pretty=True)
    assert Tokenizer.from_file(path).encode("Return the message") == tokenizer.encode("Return the message")


def random_documents(seed: int, count: int, vocab_size: int) -> list[list[int]]:
    r = random.Random(seed)
    return [[0, *(r.randrange(1, vocab_size) for _ in range(r.randrange(8))), 1] for _ in range(count)]


def discounts(counts: list[int]) -> list[float]:
    n1, n2, n3, n4 = (counts.count(i) for i in (1, 2, 3, 4))
    if not n1 * n2 * n3 * n4:
        return [0, 0.5, 0.5, 0.5]
    y = n1 / (n1 + 2 * n2)
    raw = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    return [0.0, *(min(max(d, 0.1), i) for i, d in enumerate(raw, 1))]


def slow_kneser_ney(train: list[list[int]], vocab_size: int, order: int, context: list[int], token: int) -> float:
    """The formula with dictionaries, recursively."""
    grams = [
        tuple(padded[i - order + 1 : i + 1])
        for d in train
        for padded in [[d[0]] * (max(order - 1, 1) - 1) + d]
        for i in range(max(order - 1, 1), len(padded))
    ]
    counts = Counter(grams)
    by_length = {order: dict(counts)}
    for n in range(order - 1, 0, -1):
        by_length[n] = dict(Counter(gram[1:] for gram in by_length[n + 1]))

    def p(n: int, h: tuple[int, ...]) -> float:
        if n == 0:
            return 1 / vocab_size
        d = discounts(list(by_length[n].values()))
        after = {g: c for g, c in by_length[n].items() if g[:-1] == h}
        lower = p(n - 1, h[1:])
        if not after:
            return lower
        left = sum(d[min(c, 3)] for c in after.values())
        own = after.get((*h, token), 0)
        return (own - d[min(own, 3)] + left * lower) / sum(after.values())

    padded = [context[0]] * order + context
    return p(order, tuple(padded[len(padded) - order + 1 :]))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(3, 9), st.integers(1, 60))
def test_kneser_ney_is_its_formula(seed: int, order: int, vocab_size: int, count: int) -> None:
    train = random_documents(seed, count, vocab_size)
    model = baseline.KneserNey(train, vocab_size, order)
    document = random_documents(seed + 1, 1, vocab_size)[0]
    slow = [slow_kneser_ney(train, vocab_size, order, document[:i], document[i]) for i in range(1, len(document))]
    assert model.probabilities([document]).tolist() == pytest.approx(slow, rel=1e-12)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.lists(st.integers(0, 19), max_size=6))
def test_probabilities_sum_to_one(seed: int, order: int, context: list[int]) -> None:
    model = baseline.KneserNey(random_documents(seed, 100, 15), 20, order)
    p = [model.probabilities([[0, *context, token]])[-1] for token in range(20)]
    assert math.isclose(sum(p), 1.0, rel_tol=1e-12) and min(p) > 0


def test_bits_per_byte_of_known_texts() -> None:
    """Four tokens, all as likely: two bits each; first tokens are not counted."""
    train = [[0, 0], [0, 1], [0, 2], [0, 3]]
    assert baseline.bits_per_byte(train, [[0, 1, 3], [0, 2]], 2, 4, order=1) == pytest.approx(3.0)


def test_longer_contexts_and_xz_read_real_text_better(texts: corpus.Split, tokenizer: Tokenizer) -> None:
    train, held_out = (vocabulary.encode(tokenizer, split) for split in texts)
    size = vocabulary.utf8_bytes(texts.held_out)
    bits = {n: baseline.bits_per_byte(train, held_out, size, 700, n) for n in (1, 2, 3)}
    assert 3.5 > bits[1] > bits[2] > bits[3] > 1.5
    alone = 8 * len(lzma.compress("\0".join(texts.held_out).encode(), preset=9 | lzma.PRESET_EXTREME)) / size
    assert 1.5 < baseline.xz_bits_per_byte(texts.train, texts.held_out) < alone
