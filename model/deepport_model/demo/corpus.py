"""Training text from the running Python: the standard library's docstrings and the language reference of `help()`.

Source files are parsed, never imported. The same version of Python gives the same documents in the
same order on any machine, but for what a distribution leaves out.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from deepport.errors import BadInput

SKIPPED = {
    "test",
    "tests",
    "idle_test",
    "idlelib",
    "lib2to3",
    "site-packages",
    "dist-packages",
    "turtledemo",
    "__pycache__",
}
"""Folders left out: tests' docstrings are not documentation, and the rest is not in every installation."""

HELD_OUT = 0.05
SHINGLE = 50  # characters
PART = 3000  # characters
NEAR = 0.5  # a held-out document with this share of its shingles in the training text is a near-duplicate

_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class Document(NamedTuple):
    """`header`: what is documented, as `json.dumps(obj, *, indent=None)`; empty for the language reference."""

    header: str
    text: str


class Split(NamedTuple):
    """Texts to train on and to evaluate on. No held-out text, and no near-duplicate of one, is in `train`."""

    train: list[str]
    held_out: list[str]


def documents(root: Path | None = None) -> Split:
    """The corpus: one text per docstring, or per section of the language reference.

    Every second text (by its hash) begins with a line that says what it documents, so that a model learns both to go on from
    `textwrap.dedent(text)` and from the start of a docstring alone. The split is by hash too: of the texts without
    their headers, after removing those that are the same but for case, spaces and punctuation. Held-out texts of which half
    occurs in the training text are dropped from both.

    `root` is the standard library's folder, by default the running Python's. Raises BadInput where it has no source files.
    """
    root = root or Path(sysconfig.get_path("stdlib"))
    train: list[Document] = []
    held_out: list[Document] = []
    seen: set[str] = set()
    for document in _documents(root):
        key = normal(document.text)
        if key and key not in seen:
            seen.add(key)
            (held_out if _fraction("split", key) < HELD_OUT else train).append(document)
    if not train:
        raise BadInput(f"{root}: no Python source files with docstrings")
    known = shingles(d.text for d in train)
    held_out = [d for d in held_out if overlap([d.text], known) < NEAR]
    return Split([_format(d) for d in train], [_format(d) for d in held_out])


def normal(text: str) -> str:
    """Lower-case words and digits, single spaces between them."""
    return " ".join(re.findall(r"\w+", text.lower()))


def shingles(texts: Iterable[str]) -> set[str]:
    """All runs of 50 characters of the normalised texts; a shorter text is one."""
    return {shingle for text in texts for shingle in _shingles(text)}


def overlap(texts: Iterable[str], known: set[str]) -> float:
    """Share of the texts' shingles (with repetitions) that are known: how much of a held-out text was seen in training."""
    found = [shingle in known for text in texts for shingle in _shingles(text)]
    return sum(found) / max(len(found), 1)


def _shingles(text: str) -> Iterator[str]:
    line = normal(text)
    return (line[i : i + SHINGLE] for i in range(max(len(line) - SHINGLE, 0) + 1))


def _fraction(use: str, key: str) -> float:
    """A number in [0, 1) that depends on the text alone, another one per use."""
    return int.from_bytes(hashlib.sha256(f"{use}:{key}".encode()).digest()[:6]) / 2**48


def _format(document: Document) -> str:
    with_header = document.header and _fraction("header", normal(document.text)) < 0.5
    return f"{document.header}\n{document.text}" if with_header else document.text


def _documents(root: Path) -> Iterator[Document]:
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if SKIPPED.isdisjoint(parts):
            tree = _parse(path)
            if parts == ("pydoc_data", "topics"):
                yield from _sections(tree)
            else:
                name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
                yield from _docstrings(tree, name)


def _parse(path: Path) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's files
        return ast.parse(path.read_bytes(), str(path))


def _docstrings(node: _Documented, name: str) -> Iterator[Document]:
    """Docstrings of a node and of all within it, in the order of the source."""
    text = clean(ast.get_docstring(node, clean=False) or "")
    if text:
        yield Document(_header(node, name), text)
    for child in _definitions(node):
        yield from _docstrings(child, f"{name}.{child.name}")


def _definitions(node: ast.AST) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Classes and functions right within a node, also under its `if` and `try`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        else:
            yield from _definitions(child)


def _header(node: _Documented, name: str) -> str:
    if isinstance(node, ast.Module):
        return f"module {name}"
    if isinstance(node, ast.ClassDef):
        return f"class {name}({', '.join(map(ast.unparse, node.bases))})" if node.bases else f"class {name}"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{name}({ast.unparse(node.args)}){returns}"


def clean(text: str) -> str:
    """Without common indentation, trailing spaces, more than one empty line in a row, and control characters."""
    lines = inspect.cleandoc(text).splitlines()
    text = "\n".join("".join(c for c in line if c.isprintable()).rstrip() for line in lines)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


_HEADING = re.compile(r"^(?=\S.*\n(?:\*{3,}|={3,}|-{3,}|~{3,})$)", re.MULTILINE)
"""A place before a line that the next one underlines, as reStructuredText does."""


def _sections(tree: ast.Module) -> Iterator[Document]:
    """The language reference in `pydoc_data/topics.py`, one document per section or part of a long one.

    Its topics contain each other: a paragraph is kept where it comes first. Single paragraphs, often a heading, are left out.
    """
    seen: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Assign):
            for _, topic in sorted(ast.literal_eval(node.value).items()):
                for section in _HEADING.split(clean(topic)):
                    paragraphs = [p for p in section.split("\n\n") if normal(p) and normal(p) not in seen]
                    seen.update(map(normal, paragraphs))
                    yield from (Document("", part) for part in _parts(paragraphs) if "\n\n" in part)


def _parts(paragraphs: list[str]) -> Iterator[str]:
    """Paragraphs together, up to about PART characters, so that no single text weighs much in the held-out ones."""
    part = ""
    for paragraph in paragraphs:
        if len(part) > PART:
            yield part
            part = ""
        part = f"{part}\n\n{paragraph}" if part else paragraph
    yield part
