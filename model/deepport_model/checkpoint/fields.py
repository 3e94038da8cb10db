"""Values of a JSON object by name and exact type, with errors that say which key of which file."""

from __future__ import annotations

import math
import types
from dataclasses import MISSING, fields
from typing import Any, Union, get_args, get_origin, get_type_hints

from deepport.errors import BadInput

_WORDS = {int: "an integer", float: "a number", str: "a string", bool: "true or false", type(None): "null"}


class Fields:
    """A JSON object, read by key; `where` names it in errors."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self.values, self.where = values, where

    def __contains__(self, key: str) -> bool:
        """Whether the key is there and not null."""
        return self.values.get(key) is not None

    def get(self, key: str, kind: Any, default: Any = ...) -> Any:
        """The value of `key`, of type `kind`: int, str, tuple[X, ...], X | None ...; it must be there or have a default."""
        if key not in self.values:
            if default is ...:
                raise BadInput(f"{self.where}: {key} is missing")
            return default
        return self._typed(self.values[key], kind, key)

    def child(self, key: str) -> Fields:
        """The object under `key`; empty where there is none."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            raise BadInput(f"{self.where}: {key} must be an object, not {_short(value)}")
        return Fields(value or {}, f"{self.where}: {key}")

    def refuse_others(self, known: set[str]) -> None:
        """Refuse keys that would be ignored."""
        if unknown := sorted(set(self.values) - known):
            raise BadInput(f"{self.where}: {unknown[0]} is not supported; known: {', '.join(sorted(known))}")

    def build(self, kind: type[Any]) -> Any:
        """A dataclass whose fields are exactly the keys there may be."""
        hints = get_type_hints(kind)
        self.refuse_others(set(hints))
        needed = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
        return kind(**{name: self.get(name, hints[name]) for name in hints if name in self.values or name in needed})

    def _typed(self, value: Any, kind: Any, key: str) -> Any:
        if get_origin(kind) in (types.UnionType, Union):
            options = get_args(kind)
            if value is None and type(None) in options:
                return None
            return self._typed(value, options[0], key)
        if get_origin(kind) is tuple:
            if not isinstance(value, list):
                raise BadInput(f"{self.where}: {key} must be a list, not {_short(value)}")
            return tuple(self._typed(item, get_args(kind)[0], key) for item in value)
        right = type(value) in ((int, float) if kind is float else (kind,))
        if not right or (kind is float and not _is_finite(value)):
            raise BadInput(f"{self.where}: {key} must be {_WORDS[kind]}, not {_short(value)}")
        return float(value) if kind is float else value


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
