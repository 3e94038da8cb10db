"""Tables of who serves what: before a run from a plan, after it from its record."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TextIO

from deepport.command.render import milliseconds, ranges, scaled, show
from deepport.record import Record, Row

BASIS = "flops and bytes are by shapes: each tensor moved once, attention over every entry that the cache can hold"
"""What an operator's `cost` counts; no measurement."""

_LAYER = re.compile(r"^layers\.(\d+)")


def why(row: Row) -> str:
    """Why no faster kernel serves: what each said, or that there is none."""
    if row.refusals:
        return "; ".join(f"{kernel} refuses: {reason}" for kernel, reason in row.refusals)
    return "no kernel is declared" if row.implementation.startswith("reference") else ""


def planned(record: Record, title: str, file: TextIO) -> None:
    """Operators of one planned step."""
    rows = sorted(record.totals(), key=lambda r: (-r.bytes, r.operator))
    _show(("operator", "served by"), [(r.operator, r.implementation) for r in rows], rows, title, file)


def planned_sites(record: Record, title: str, file: TextIO) -> None:
    """Call sites of one planned step; layers that agree in everything share a row."""
    folded = list(_folded(record.rows))
    names = [(site, r.operator, r.implementation) for site, r in folded]
    _show(("call site", "operator", "served by"), names, [r for _, r in folded], title, file)


def measured(record: Record, file: TextIO) -> None:
    """Operators of a run, the slowest first."""
    rows = [
        (r.operator, r.implementation, str(r.calls), milliseconds(r.seconds), scaled(r.bytes, "B"), why(r))
        for r in record.totals()
    ]
    columns = ("operator", "served by", ">calls", ">ms", ">bytes", "why nothing faster")
    show(columns, rows, file, "what was computed (bytes are by shapes; ms are without operators called from inside)")


def served(record: Record) -> str:
    """In one line: how many operators references served, and how many each kernel."""
    rows = record.totals()
    operators = {r.operator for r in rows}
    kernels: dict[str, set[str]] = {}
    for row in rows:
        if not row.implementation.startswith("reference"):
            kernels.setdefault(row.implementation, set()).add(row.operator)
    others = (f"{name} {len(found)}" for name, found in sorted(kernels.items()))
    return ", ".join((f"references {len(record.references)} of {len(operators)} operators", *others))


def _show(
    heads: Sequence[str], names: Iterable[tuple[str, ...]], rows: Iterable[Row], title: str, file: TextIO
) -> None:
    columns = (*heads, ">calls", ">flops", ">bytes", "why nothing faster")
    cells = [
        (*name, str(r.calls), scaled(r.flops), scaled(r.bytes, "B"), why(r))
        for name, r in zip(names, rows, strict=True)
    ]
    show(columns, cells, file, title)


def _folded(rows: Iterable[Row]) -> Iterable[tuple[str, Row]]:
    """Each distinct row once, with its sites in short: `layers.2-42/2.attn` is `attn` of every second layer."""
    groups: dict[tuple[object, ...], list[tuple[int, Row]]] = {}
    for row in rows:
        layer = _LAYER.match(row.site)
        same = (
            _LAYER.sub("", row.site),
            row.operator,
            row.implementation,
            row.refusals,
            row.calls,
            row.flops,
            row.bytes,
        )
        groups.setdefault((layer is None, *same), []).append((int(layer[1]) if layer else -1, row))
    for (outside, rest, *_), found in groups.items():
        site = rest if outside else f"layers.{ranges(layer for layer, _ in found)}{rest}"
        yield str(site) or "model", found[0][1]
