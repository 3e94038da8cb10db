"""What torch_npu's fused operators take: `capabilities.toml`, read once, and its answers to calls.

`check` is asked before a vendor operator is called, by kernels and by the simulator alike, with the arguments under the vendor's
names: tensors as `TensorSpec`, the rest as they are. It refuses with a reason that names the argument, what it is, what the
chip takes and where that is documented.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepport_npu import compatibility

if TYPE_CHECKING:
    from deepport.kernel import Support, TensorSpec

TABLE = Path(__file__).with_name("capabilities.toml")
FAMILIES = ("A2", "A3", "A5")
TORCH_NPU = "2.13.0"
"""The torch_npu whose documentation and schemas the table was read from; the least that it speaks for."""

_OPERATOR = {"source", "schema", "same_dtype", "tensors", "sizes", "attributes", "chips"}
_CHIP = {"tensors", "sizes", "attributes", "torch_npu", "cann", "source"}
_TENSOR = {"dtypes", "shapes", "contiguous", "empty", "optional", "source"}
_BOUND = {"one_of", "min", "max", "multiple", "power_of_two", "or", "source"}
_TERM = re.compile(r"[A-Za-z_]\w*|\d+")


class BadTable(ValueError):
    """The table says something that cannot be read, or names a source that it does not list."""


@dataclass(frozen=True)
class Bound:
    """What a size or an attribute may be. `others` are taken beside the range."""

    source: str
    one_of: tuple[Any, ...] = ()
    least: int | None = None
    most: int | None = None
    multiple: int = 1
    power_of_two: bool = False
    others: tuple[Any, ...] = ()

    def takes(self, value: Any) -> bool:
        if value in self.others:
            return True
        if self.one_of and not any(value == v and type(value) is type(v) for v in self.one_of):
            return False
        numeric = self.least is not None or self.most is not None or self.multiple > 1 or self.power_of_two
        return not numeric or self._in_range(value)

    def _in_range(self, value: int) -> bool:
        low = self.least is None or value >= self.least
        high = self.most is None or value <= self.most
        power = not self.power_of_two or (value > 0 and value & (value - 1) == 0)
        return low and high and power and value % self.multiple == 0

    def __str__(self) -> str:
        parts = [", ".join(map(str, self.one_of))] if self.one_of else []
        parts += ["a power of two"] if self.power_of_two else []
        parts += [f"a multiple of {self.multiple}"] if self.multiple > 1 else []
        parts += [f"at least {self.least}"] if self.least is not None else []
        parts += [f"at most {self.most}"] if self.most is not None else []
        return " and ".join(parts) + (f", or {', '.join(map(str, self.others))}" if self.others else "")


@dataclass(frozen=True)
class TensorRule:
    """What a tensor argument may be; `shapes` are alternatives, each a name or a sum of products for every dimension."""

    source: str
    dtypes: tuple[str, ...]
    shapes: tuple[tuple[str, ...], ...]
    contiguous: bool = False
    empty: bool = True
    optional: bool = False


@dataclass(frozen=True)
class Entry:
    """One vendor operator on one generation of chip. `schema` is what it must be declared with, "" for torch_npu's."""

    operator: str
    family: str
    source: str
    torch_npu: str
    cann: str
    tensors: Mapping[str, TensorRule]
    sizes: Mapping[str, Bound]
    attributes: Mapping[str, Bound]
    same_dtype: tuple[tuple[str, ...], ...]
    schema: str


def check(operator: str, family: str, versions: Mapping[str, str], arguments: Mapping[str, Any]) -> Support:
    """Whether a vendor operator takes these arguments on this generation: YES, or no(code, reason).

    `versions` has `torch_npu` and `cann`; one that is missing is not known, which is not enough where a least one is. Raises
    KeyError for an operator that the table has not, ValueError for an argument that it does not name: the caller's bugs.
    """
    from deepport.kernel import YES, no  # here, so that the table can be read where torch is not wanted

    if operator not in table():
        raise KeyError(f"the capability table has no operator {operator}")
    entry = table()[operator].get(family)
    if entry is None:
        chips = ", ".join(table()[operator])
        return no("device", f"{operator} is documented for {chips}, not for {family or 'this chip'}")
    if unknown := set(arguments) - set(entry.tensors) - set(entry.attributes):
        raise ValueError(f"the capability table's {operator} on {family} has no argument {min(unknown)!r}")
    code, reason = next(_refusals(entry, versions, arguments), ("", ""))
    return no(code, f"{operator}: {reason}") if code else YES


Refusal = tuple[str, str]


def _refusals(entry: Entry, versions: Mapping[str, str], arguments: Mapping[str, Any]) -> Iterator[Refusal]:
    yield from _old(entry, versions)
    sizes: dict[str, int] = {}
    for name, rule in entry.tensors.items():
        yield from _tensor(entry, name, rule, arguments.get(name), sizes)
    yield from _dtypes_differ(entry, arguments)
    for terms, bound in entry.sizes.items():
        if (value := _product(terms, sizes)) is not None and not bound.takes(value):
            yield "shape", f"{_owners(entry, terms)} {value}; {entry.family} takes {bound} ({bound.source})"
    for name, bound in entry.attributes.items():
        if name in arguments and not bound.takes(arguments[name]):
            yield "attribute", f"{name} is {arguments[name]!r}; {entry.family} takes {bound} ({bound.source})"


def _old(entry: Entry, versions: Mapping[str, str]) -> Iterator[Refusal]:
    for name, least in (("torch_npu", entry.torch_npu), ("cann", entry.cann)):
        found = versions.get(name, "")
        if least and (not found or _version(found) < _version(least)):
            what = f"this is {found}" if found else "which one is installed is not known"
            yield "version", f"needs {name} {least} on {entry.family}; {what} ({entry.source})"


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)[:4]))


def _tensor(entry: Entry, name: str, rule: TensorRule, found: Any, sizes: dict[str, int]) -> Iterator[Refusal]:
    if found is None:
        if not rule.optional:
            yield "attribute", f"{name} is None; {entry.family} needs it ({rule.source})"
        return
    if (dtype := _dtype(found)) not in rule.dtypes:
        yield "dtype", f"{name} is {dtype}; {entry.family} takes {', '.join(rule.dtypes)} ({rule.source})"
    if not any(_fits(shape, found.shape, sizes) for shape in rule.shapes):
        wanted = " or ".join(f"[{', '.join(s)}]" for s in rule.shapes)
        known = ", ".join(f"{n} = {v}" for n, v in sizes.items() if re.search(rf"\b{n}\b", wanted))
        which = f" with {known}" if known else ""
        yield "shape", f"{name} is {list(found.shape)}; {entry.family} takes {wanted}{which} ({rule.source})"
    if not rule.empty and 0 in found.shape:
        yield "shape", f"{name} is empty, {list(found.shape)}, which {entry.family} does not take ({rule.source})"
    if rule.contiguous and not found.contiguous:
        yield "layout", f"{name} is not contiguous, which it must be on {entry.family} ({rule.source})"


def _fits(shape: tuple[str, ...], found: tuple[int, ...], sizes: dict[str, int]) -> bool:
    """Whether sizes fit, which binds the names that are new. A sum of products is compared once all its names are bound."""
    if len(shape) != len(found):
        return False
    bound = dict(sizes)
    for term, size in zip(shape, found, strict=True):
        value = _sum(term, bound)
        if value is None and term.isidentifier():
            bound[term] = size
        elif value is not None and value != size:
            return False
    sizes.update(bound)
    return True


def _sum(terms: str, sizes: Mapping[str, int]) -> int | None:
    products = [_product(term, sizes) for term in terms.split("+")]
    return None if None in products else sum(p for p in products if p is not None)


def _product(terms: str, sizes: Mapping[str, int]) -> int | None:
    """The value of `2*n`, or None where a name is not bound."""
    factors = [int(t) if t.isdecimal() else sizes.get(t) for t in terms.split("*")]
    return None if None in factors else prod(f for f in factors if f is not None)


def _dtypes_differ(entry: Entry, arguments: Mapping[str, Any]) -> Iterator[Refusal]:
    for group in entry.same_dtype:
        found = {n: _dtype(arguments[n]) for n in group if arguments.get(n) is not None}
        if len(set(found.values())) > 1:
            listed = ", ".join(f"{n} is {d}" for n, d in found.items())
            yield "dtype", f"{listed}; {entry.family} takes one dtype for all ({entry.source})"


def _dtype(tensor: TensorSpec) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _owners(entry: Entry, terms: str) -> str:
    """`query's D is`: the first tensor in whose shape the size stands."""
    owner = next((n for n, r in entry.tensors.items() if any(terms in s for s in r.shapes)), "")
    return f"{owner}'s {terms} is" if owner else f"{terms} is"


@cache
def table() -> Mapping[str, Mapping[str, Entry]]:
    """The table by operator and generation. Raises BadTable."""
    return read(TABLE.read_text())


def read(text: str) -> dict[str, dict[str, Entry]]:
    """A table's text. Raises BadTable for what it cannot mean."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadTable(f"capabilities: {error}") from error
    sources = data.pop("sources", {})
    return {name: _operator(name, found, sources) for name, found in data.items()}


def _operator(name: str, data: dict[str, Any], sources: Mapping[str, str]) -> dict[str, Entry]:
    _known(name, data, _OPERATOR)
    if not data.get("chips") or set(data["chips"]) - set(FAMILIES):
        raise BadTable(f"capabilities: {name}: chips must be some of {', '.join(FAMILIES)}")
    return {family: _entry(name, family, data, sources) for family in data["chips"]}


def _entry(name: str, family: str, data: dict[str, Any], sources: Mapping[str, str]) -> Entry:
    where, chip = f"{name} on {family}", data["chips"][family]
    _known(where, chip, _CHIP)
    source = _source(where, chip.get("source", data.get("source")), sources)
    torch_npu = chip.get("torch_npu", TORCH_NPU)
    parts = {part: data.get(part, {}) | chip.get(part, {}) for part in ("tensors", "sizes", "attributes")}
    entry = Entry(
        operator=name,
        family=family,
        source=source,
        torch_npu=torch_npu,
        cann=chip.get("cann") or _cann_of(where, torch_npu),
        tensors={n: _rule(f"{where}, {n}", r, source, sources) for n, r in parts["tensors"].items()},
        sizes={n: _bound(f"{where}, {n}", b, source, sources) for n, b in parts["sizes"].items()},
        attributes={n: _bound(f"{where}, {n}", b, source, sources) for n, b in parts["attributes"].items()},
        same_dtype=tuple(map(tuple, data.get("same_dtype", ()))),
        schema=data.get("schema", ""),
    )
    _consistent(where, entry)
    return entry


def _cann_of(where: str, torch_npu: str) -> str:
    """The least CANN, where the row names none."""
    if found := compatibility.made_for(torch_npu):
        return found
    raise BadTable(
        f"capabilities: {where}: no release of compatibility.toml has torch_npu {torch_npu}; name the least cann"
    )


def _rule(where: str, data: dict[str, Any], source: str, sources: Mapping[str, str]) -> TensorRule:
    _known(where, data, _TENSOR)
    if not data.get("dtypes") or not data.get("shapes"):
        raise BadTable(f"capabilities: {where}: dtypes and shapes are needed")
    own = _source(where, data["source"], sources) if "source" in data else source
    shapes = tuple(tuple(shape.split()) for shape in data["shapes"])
    flags = {n: data[n] for n in ("contiguous", "empty", "optional") if n in data}
    return TensorRule(own, tuple(data["dtypes"]), shapes, **flags)


def _bound(where: str, data: dict[str, Any], source: str, sources: Mapping[str, str]) -> Bound:
    _known(where, data, _BOUND)
    own = _source(where, data["source"], sources) if "source" in data else source
    return Bound(
        source=own,
        one_of=tuple(data.get("one_of", ())),
        least=data.get("min"),
        most=data.get("max"),
        multiple=data.get("multiple", 1),
        power_of_two=data.get("power_of_two", False),
        others=tuple(data.get("or", ())),
    )


def _consistent(where: str, entry: Entry) -> None:
    """Every name that a rule speaks of is there."""
    named = {
        t for rule in entry.tensors.values() for shape in rule.shapes for term in shape for t in _TERM.findall(term)
    }
    for terms in entry.sizes:
        if missing := set(_TERM.findall(terms)) - named:
            raise BadTable(f"capabilities: {where}: no tensor has a size {min(missing)!r}")
    for group in entry.same_dtype:
        if missing := set(group) - set(entry.tensors):
            raise BadTable(f"capabilities: {where}: same_dtype names {min(missing)!r}, which is no tensor")


def _known(where: str, data: Mapping[str, Any], keys: Iterable[str]) -> None:
    if unknown := set(data) - set(keys):
        raise BadTable(f"capabilities: {where}: {min(unknown)!r} is none of {', '.join(sorted(keys))}")


def _source(where: str, name: str | None, sources: Mapping[str, str]) -> str:
    if not name or name not in sources:
        raise BadTable(f"capabilities: {where}: the source {name!r} is not listed under [sources]")
    return sources[name]
