"""From bytes to a report, with every doubt: one line names the field that is wrong, and no file takes memory without bound.

JSON is parsed by the standard library and validated one result at a time: handed a whole file, pydantic keeps an error for every
wrong element (measured: 4 GB for 8 MiB of `[1,1,...]`), and parses `[[],[],...]` into 3 GB.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from deepport.conformance.result import SCHEMA, KernelInfo, MutantResult, Report, Result
from deepport.errors import BadInput
from deepport.report.words import printable

T = TypeVar("T", bound=BaseModel)

MOST_VALUES = 50_000
"""JSON values within one result; real ones have some hundred."""

KILLED = "the run was killed"

_NO_REPORT = "is no report of deepport conform"
_LISTS: dict[str, type[BaseModel]] = {"results": Result, "kernels": KernelInfo, "mutants": MutantResult}
"""Fields of a report that grow with the run; their elements are validated one by one."""


def report_of(text: bytes, where: str) -> Report:
    """The report that a file's text is; BadInput, which begins with `where`, for anything else."""
    content = _object(text, where)
    if "format" not in content:
        raise BadInput(f"{where}: has no field 'format': it {_NO_REPORT}")
    return _report(content, where)


def journal_of(text: bytes, where: str) -> Report:
    """What a killed run had noted, a line for each result; the last line may be torn.

    The first line is `{"report": ...}`, a report without results; the others are `{"result": ...}` or `{"mutant": ...}`.
    """
    head, *lines = _lines(text, where)
    if head[1] != "report":
        raise BadInput(f"{where}: does not begin with a report: it is no journal of deepport conform")
    content: dict[str, Any] = {"results": [], **_dict(head[2], head[0])}
    for place, kind, value in lines:
        if kind not in ("result", "mutant"):
            raise BadInput(f"{place}: holds {printable(repr(kind), 60)}, where a result or a mutant was expected")
        content[f"{kind}s"] = content.get(f"{kind}s") or []
        content[f"{kind}s"].append(value)
    return _report(content | {"complete": False, "stopped": KILLED, "digest": ""}, where)


def is_journal(text: bytes) -> bool:
    return b"".join(text[:80].split()).startswith(b'{"report":')


def _lines(text: bytes, where: str) -> Iterator[tuple[str, str, Any]]:
    """Of each line its place, its one key and what it holds."""
    lines = text.split(b"\n")
    for i, line in enumerate(lines, 1):
        place = f"{where}: line {i}"
        try:
            content = _object(line, place)
        except BadInput:
            if i > 1 and i == len(lines):
                return
            raise
        if len(content) != 1:
            raise BadInput(f"{place}: has {len(content)} fields, where a line of a journal has one")
        yield (place, *next(iter(content.items())))


def _object(text: bytes, where: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: is truncated, or not JSON: {printable(str(error), 120)}") from None
    return _dict(content, where)


def _dict(content: Any, where: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise BadInput(f"{where}: is JSON, but {_NO_REPORT}")
    return content


def _report(content: dict[str, Any], where: str) -> Report:
    lists = {name: content[name] for name in _LISTS if content.get(name) is not None}
    # Another version explains whatever else is wrong, so the head goes first.
    head = _model(Report, content | {name: [] for name in lists}, where)
    found = {name: _each(name, values, where) for name, values in lists.items()}
    return head.model_copy(update=found)


def _each(name: str, values: Any, where: str) -> tuple[BaseModel, ...]:
    if not isinstance(values, list):
        raise BadInput(f"{where}: field {name} is no list")
    return tuple(_model(_LISTS[name], value, where, name, i) for i, value in enumerate(values))


def _model(kind: type[T], value: Any, where: str, *path: str | int) -> T:
    _check(value, where, path)
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise BadInput(f"{where}: {_first(error, path)}") from None


def _check(value: Any, where: str, path: Sequence[str | int]) -> None:
    """Refuse what would make too many errors, and text that no file in UTF-8 can hold."""
    left, seen = [value], 0
    while left:
        one = left.pop()
        seen += 1
        if isinstance(one, dict):
            left += [*one, *one.values()]
        elif isinstance(one, list):
            left += one
        elif isinstance(one, str) and not one.isascii() and any("\ud800" <= c <= "\udfff" for c in one):
            raise BadInput(f"{where}: {_field(path)} holds half a character, {printable(one, 60)!r}")
        if seen + len(left) > MOST_VALUES:
            raise BadInput(f"{where}: {_field(path)} has more than {MOST_VALUES:,} values: it {_NO_REPORT}")


def _first(error: ValidationError, path: Sequence[str | int]) -> str:
    errors = error.errors(include_url=False, include_context=False)
    one = next((e for e in errors if e["loc"] == ("format",)), errors[0])
    if one["loc"] == ("format",):
        return f"is of the format {printable(repr(one['input']), 60)}, and this deepport reads {SCHEMA}"
    field = _field((*path, *one["loc"]))
    if one["type"] == "missing":
        return f"{field} is missing" if path else f"{field} is missing: it {_NO_REPORT}"
    return f"{field}: {printable(one['msg'], 200)}, not {printable(repr(one['input']), 60)}"


def _field(path: Sequence[str | int]) -> str:
    """`field results[3].status`."""
    parts = "".join(f"[{p}]" if isinstance(p, int) else f".{printable(p, 60)}" for p in path)
    return f"field {parts.removeprefix('.')}" if parts else "the report"
