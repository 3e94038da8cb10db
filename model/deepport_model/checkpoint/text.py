"""JSON from files that nobody has vouched for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deepport.errors import BadInput


def parse_object(text: bytes, where: str) -> dict[str, Any]:
    """The JSON object in `text`; BadInput for anything else, a repeated key, or a number that JSON does not have."""
    try:
        value = json.loads(text.decode(), parse_constant=_refuse, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise BadInput(f"{where}: is not JSON: {reason}") from error
    if not isinstance(value, dict):
        raise BadInput(f"{where}: is not a JSON object")
    return value


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file `path`."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error
    return parse_object(text, str(path))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is repeated")
    return found
