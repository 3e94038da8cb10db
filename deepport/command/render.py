"""Tables and numbers for people: aligned, coloured on a terminal only, one line per row elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

_UNLIMITED = 1 << 16
"""Columns of a table that no terminal shows: rows are never wrapped, so that `grep` and `awk` find them whole."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Rich would end the program with exit code 1; what to do where a reader has left is the command's to say."""
        raise BrokenPipeError


def show(columns: Sequence[str], rows: Iterable[Sequence[str]], file: TextIO, title: str = "") -> None:
    """Write a table. Columns named with a leading `>` are aligned to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title_justify="left", header_style="bold")
    for column in columns:  # as Text: `[` in a name or a reason is no markup
        table.add_column(Text(column.removeprefix(">")), justify="right" if column.startswith(">") else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    width = None if file.isatty() else _UNLIMITED
    console = _Console(file=file, width=width, highlight=False)
    with console.capture() as captured:
        console.print(table)
    lines = (line.rstrip() for line in captured.get().splitlines())
    file.write("".join(f"{line}\n" for line in ([title] if title else []) + list(lines)))


def fields(pairs: Iterable[tuple[str, str]], file: TextIO) -> None:
    """Write lines of a name and what is said of it, aligned."""
    found = list(pairs)
    width = max((len(name) for name, _ in found), default=0)
    file.write("".join(f"{name:<{width}}  {text}\n" for name, text in found))


def scaled(value: float, unit: str = "") -> str:
    """A number with three digits and a decimal prefix: `scaled(284e9, "B")` is `284 GB`."""
    prefixes = ("", "k", "M", "G", "T", "P", "E")
    power = next((i for i in range(len(prefixes)) if abs(value) < 999.5 * 1000.0**i), len(prefixes) - 1)
    return f"{value / 1000.0**power:.3g} {prefixes[power]}{unit}".rstrip()


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}"


def ranges(numbers: Iterable[int]) -> str:
    """Ascending numbers in short: `0,1,5` is `0-1,5`, and `2,4,6` is `2-6/2`."""
    left, parts = sorted(numbers), []
    while left:
        step = left[1] - left[0] if len(left) > 1 else 1
        length = next((i for i in range(1, len(left)) if left[i] - left[i - 1] != step), len(left))
        # Two numbers make a range only where they are neighbours.
        length = 1 if length == 2 and step > 1 else length
        last = left[length - 1]
        parts.append(f"{left[0]}-{last}{f'/{step}' if step > 1 else ''}" if length > 1 else f"{last}")
        left = left[length:]
    return ",".join(parts)
