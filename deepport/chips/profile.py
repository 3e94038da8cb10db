"""The profile of a chip: a JSON file that these classes are the schema of. What nobody has published is not in it.

All numbers are of one device, in bytes, bytes a second, operations a second and seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Arithmetic = Literal["float32", "bfloat16", "float16", "fp8", "fp4", "int8"]
"""What a product of matrices is computed in."""

By = Literal["vendor", "reproduced", "partner", "benchmark", "press", "measured"]
"""Whose word a source is: the vendor's own, the vendor's as others quote it, a seller's or centre's, a published benchmark's
system description, the press's, or a measurement."""

_HOLDS: dict[str, tuple[Arithmetic, ...]] = {
    "float32": ("float32",),
    "bfloat16": ("bfloat16", "float32"),
    "float16": ("float16", "float32"),
    "int8": ("int8", "bfloat16", "float16", "float32"),
    "fp8": ("fp8", "bfloat16", "float16", "float32"),
    "fp4": ("fp4", "fp8", "bfloat16", "float16", "float32"),
}
"""By a weight's element, the arithmetic that can hold it: activations may be rounded to fit, which a bound must allow for."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Frozen):
    """Where a number is from: `address` is where it was read, `date` of what was read; "" where that is not known."""

    title: str = Field(min_length=3)
    by: By
    address: str = ""
    date: str = ""


class Number(_Frozen):
    """One number, the key of its source, and what must be known to read it."""

    value: float = Field(gt=0, allow_inf_nan=False)
    source: str
    note: str = ""


class Profile(_Frozen):
    """A chip. A number that is None is unknown: it bounds nothing, and is shown as unknown.

    Attributes:
        backend: deepport's backend for it; "" where there is none.
        memory, bandwidth: of the device.
        cache, cache_bandwidth: of its last level of cache; what it holds need not come from memory.
        gather: bytes a second of rows read at random, by a row's bytes; never more than bandwidth.
        file: the same of a mapped file on the host's disk, of which nothing is in memory.
        flops: operations a second by arithmetic, dense, summed in float32 (or int32).
        lacks: arithmetic that the chip has not got: weights of such elements are decoded to what it has.
        link: from the host's memory to the device, one way.
        launch: what one call takes at least, however little it does.
        host_memory, host_devices: a usual host's memory, and how many of these devices share it.
        limits: what else one must know, in sentences.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    title: str
    vendor: str
    backend: str = ""
    aliases: tuple[str, ...] = ()
    memory: Number | None = None
    bandwidth: Number | None = None
    cache: Number | None = None
    cache_bandwidth: Number | None = None
    gather: dict[int, Number] = {}
    file: dict[int, Number] = {}
    link: Number | None = None
    launch: Number | None = None
    host_memory: Number | None = None
    host_devices: int = Field(default=1, ge=1)
    flops: dict[Arithmetic, Number] = {}
    lacks: tuple[Arithmetic, ...] = ()
    limits: tuple[str, ...] = ()
    sources: dict[str, Source]

    @model_validator(mode="after")
    def _cited(self) -> Profile:
        used = {number.source for _, number in self.numbers()}
        if unknown := sorted(used - self.sources.keys()):
            raise ValueError(f"source {unknown[0]!r} is not among sources")
        if idle := sorted(self.sources.keys() - used):
            raise ValueError(f"source {idle[0]!r} is of no number")
        if both := sorted(self.flops.keys() & set(self.lacks)):
            raise ValueError(f"flops has {both[0]}, and lacks says that there is none")
        return self

    def numbers(self) -> Iterator[tuple[str, Number]]:
        """All that is known, by what it is called: `memory`, `gather 512 B`, `flops bfloat16`."""
        for name in ("memory", "bandwidth", "cache", "cache_bandwidth", "link", "launch", "host_memory"):
            if (number := getattr(self, name)) is not None:
                yield name, number
        yield from ((f"gather {row} B", number) for row, number in self.gather.items())
        yield from ((f"file {row} B", number) for row, number in self.file.items())
        yield from ((f"flops {name}", number) for name, number in self.flops.items())

    def value(self, name: Literal["memory", "bandwidth", "cache", "link", "launch", "host_memory"]) -> float | None:
        number: Number | None = getattr(self, name)
        return None if number is None else number.value

    def hosts(self, devices: int) -> int:
        """Hosts that so many devices need."""
        return -(-devices // self.host_devices)

    def rows_from_file(self, row: int) -> float | None:
        """Bytes a second of rows of so many bytes at most: as of larger ones, or as many rows a second as of the largest."""
        known = sorted((r, n.value) for r, n in self.file.items())
        if not known:
            return None
        largest, rate = known[-1]
        return next((rate for r, rate in known if r >= row), rate * row / largest)

    def fastest(self, element: str) -> tuple[Arithmetic, float] | None:
        """The arithmetic that computes most with weights of this element, and its rate; None where none is known."""
        known = [(name, self.flops[name].value) for name in _HOLDS[element] if name in self.flops]
        return max(known, key=lambda pair: pair[1], default=None)
