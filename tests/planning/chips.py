"""Profiles of chips whose numbers are easy to reckon with."""

from __future__ import annotations

from typing import Any

from deepport.chips.profile import Number, Profile, Source


def chip(flops: dict[str, float] | None = None, gather: dict[int, float] | None = None, **numbers: float) -> Profile:
    """A chip that has these numbers and no other."""
    fields: dict[str, Any] = {
        name: Number(value=value, source="s") for name, value in numbers.items() if name != "host_devices"
    }
    fields |= {"flops": {name: Number(value=rate, source="s") for name, rate in (flops or {}).items()}}
    fields |= {"gather": {row: Number(value=rate, source="s") for row, rate in (gather or {}).items()}}
    known = {"s": Source(title="A test", by="measured")} if numbers or flops or gather else {}
    return Profile(
        name="test",
        title="Test",
        vendor="Test",
        sources=known,
        host_devices=int(numbers.get("host_devices", 1)),
        **fields,
    )
