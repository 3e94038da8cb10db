"""Every limit of the capability table, each with a call that breaks it: a new row has its negative cases by being there.

A limit is a fact of an `Entry` that a call can break. What is listed here is derived from the entries alone; `KNOWN` are the
facts that it looks at, so that a new kind of limit is not overlooked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from npu.calls import VERSIONS, call

from deepport.kernel import TensorSpec
from deepport_npu.capability import Bound, Entry, TensorRule
from deepport_npu.kernels.chip import laid

KNOWN = {
    Entry: {
        "operator",
        "family",
        "source",
        "torch_npu",
        "cann",
        "tensors",
        "sizes",
        "attributes",
        "same_dtype",
        "schema",
    },
    TensorRule: {"source", "dtypes", "shapes", "contiguous", "empty", "optional"},
    Bound: {"source", "one_of", "least", "most", "multiple", "power_of_two", "others"},
}


@dataclass(frozen=True)
class Limit:
    """`call` lies just outside, and `inside`, where there is such, just inside; the refusal has `code` and `said`."""

    name: str
    entry: Entry
    call: dict[str, Any]
    code: str
    said: str
    source: str
    inside: dict[str, Any] | None = None
    versions: tuple[tuple[str, str], ...] = tuple(VERSIONS.items())


def limits(entry: Entry) -> Iterator[Limit]:
    yield from _versions(entry)
    for name, rule in entry.tensors.items():
        yield from _tensor(entry, name, rule)
    yield from _shared(entry)
    for name, bound in entry.sizes.items():
        for inside, outside in edges(bound):
            near, far = call(entry, **{name: inside}), call(entry, **{name: outside})
            yield Limit(f"{name}={outside}", entry, far, "shape", f"{name} is {outside}", bound.source, near)
    for name, bound in entry.attributes.items():
        yield from _attribute(entry, name, bound)


def _versions(entry: Entry) -> Iterator[Limit]:
    usual = call(entry)
    for name, least in (("torch_npu", entry.torch_npu), ("cann", entry.cann)):
        for found, said in (("1.0", "this is 1.0"), ("", "is not known")):
            versions = tuple((VERSIONS | {name: found}).items())
            text = f"needs {name} {least} on {entry.family}"
            yield Limit(f"{name} {said}", entry, usual, "version", text, said, usual, versions)


def _tensor(entry: Entry, name: str, rule: TensorRule) -> Iterator[Limit]:
    usual = call(entry)
    spec: TensorSpec = usual[name]

    def changed(what: str, value: TensorSpec | None, code: str, said: str) -> Limit:
        return Limit(f"{name} {what}", entry, usual | {name: value}, code, f"{name} is {said}", rule.source, usual)

    yield changed("of another dtype", replace(spec, dtype=torch.complex64), "dtype", "complex64")
    for shape in _others(entry, name, rule, spec):
        yield changed(f"as {list(shape)}", laid(spec.dtype, *shape), "shape", str(list(shape)))
    if not rule.optional:
        yield changed("left out", None, "attribute", "None")
    if rule.contiguous and max(spec.shape) > 1:
        yield changed(
            "with gaps", replace(spec, stride=tuple(2 * s + 1 for s in spec.stride)), "layout", "not contiguous"
        )
    if not rule.empty:
        size = re.findall(r"[A-Za-z_]\w*", " ".join(rule.shapes[0]))[0]
        yield Limit(f"{name} empty", entry, call(entry, **{size: 0}), "shape", "is empty, ", rule.source, usual)


def _others(entry: Entry, name: str, rule: TensorRule, spec: TensorSpec) -> Iterator[tuple[int, ...]]:
    """Of another rank, and one larger wherever a size is given already: a number, a product, a name that stands before."""
    yield (*spec.shape, 1, 1)
    before = {t for n in _preceding(entry, name) for t in entry.tensors[n].shapes[0]}
    for i, term in enumerate(rule.shapes[0]):
        if not term.isidentifier() or term in before or term in rule.shapes[0][:i]:
            other = (*spec.shape[:i], spec.shape[i] + 1, *spec.shape[i + 1 :])
            if not any(_fits_alone(shape, other, term) for shape in rule.shapes[1:]):
                yield other


def _preceding(entry: Entry, name: str) -> list[str]:
    names = [*entry.tensors]
    return names[: names.index(name)]


def _fits_alone(shape: tuple[str, ...], found: tuple[int, ...], term: str) -> bool:
    """Whether an alternative would take the changed size, since it does not have the term."""
    return len(shape) == len(found) and term not in shape


def _shared(entry: Entry) -> Iterator[Limit]:
    usual = call(entry)
    for group in entry.same_dtype:
        for name in group:
            other = next((d for d in entry.tensors[name].dtypes if d != _dtype(usual[name])), None)
            if other is not None:
                narrow = replace(usual[name], dtype=getattr(torch, other))
                said = f"{name} is {other}"
                yield Limit(f"{name} alone {other}", entry, usual | {name: narrow}, "dtype", said, entry.source, usual)


def _dtype(spec: TensorSpec) -> str:
    return str(spec.dtype).removeprefix("torch.")


def _attribute(entry: Entry, name: str, bound: Bound) -> Iterator[Limit]:
    usual = call(entry)
    if bound.one_of:
        for value in bound.one_of:
            near = usual | {name: value}
            yield Limit(
                f"{name} beside {value}",
                entry,
                usual | {name: "another"},
                "attribute",
                f"{name} is",
                bound.source,
                near,
            )
        return
    for inside, outside in edges(bound):
        near, far = usual | {name: inside}, usual | {name: outside}
        yield Limit(f"{name}={outside}", entry, far, "attribute", f"{name} is {outside}", bound.source, near)


def edges(bound: Bound) -> Iterator[tuple[int, int]]:
    """`(just inside, just outside)` of each part of a bound."""
    if bound.one_of:
        yield from ((v, v + 1) for v in bound.one_of if v + 1 not in bound.one_of)
    if bound.least is not None:
        yield bound.least, bound.least - 1
    if bound.most is not None:
        inside = bound.most - bound.most % bound.multiple
        yield (1 << inside.bit_length() - 1 if bound.power_of_two else inside), inside + bound.multiple
    if bound.multiple > 1:
        inside = max(2 * bound.multiple, bound.least or 0)
        yield inside, inside + 1
    if bound.power_of_two:
        yield 32, 33
    yield from ((v, v + 1) for v in bound.others)


def named(entry: Entry) -> str:
    return f"{entry.operator}-{entry.family}"
