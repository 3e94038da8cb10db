"""The capability table: every limit in it refuses what is just outside, takes what is just inside, and says where it is from."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from npu.calls import SIZES, VERSIONS, call

from deepport.kernel import Support
from deepport_npu.capability import TABLE, BadTable, Bound, Entry, check, read, table
from deepport_npu.kernels.chip import laid

ENTRIES = [entry for chips in table().values() for entry in chips.values()]


def _named(entry: Entry) -> str:
    return f"{entry.operator}-{entry.family}"


def _asked(entry: Entry, **changes: Any) -> Support:
    return check(entry.operator, entry.family, VERSIONS, call(entry) | changes)


def _refused(answer: Support, code: str, *said: str) -> None:
    assert not answer, f"taken, where {code} is outside: {said}"
    assert answer.code == code, answer
    assert all(text in answer.reason for text in said), (said, answer.reason)


def _all(kind: str) -> list[Any]:
    found = [(e, n) for e in ENTRIES for n in getattr(e, kind)]
    return [pytest.param(e, n, id=f"{_named(e)}-{n}") for e, n in found]


@pytest.mark.parametrize("entry", ENTRIES, ids=_named)
def test_every_entry_takes_an_ordinary_call(entry: Entry) -> None:
    assert _asked(entry), _asked(entry).reason


def test_every_operator_of_the_table_is_tested() -> None:
    assert set(SIZES) == set(table())


@pytest.mark.parametrize(("entry", "name"), _all("tensors"))
def test_a_tensor_of_another_dtype_is_refused(entry: Entry, name: str) -> None:
    other = replace(call(entry)[name], dtype=torch.complex64)
    _refused(_asked(entry, **{name: other}), "dtype", f"{name} is complex64", entry.tensors[name].source)


@pytest.mark.parametrize(("entry", "name"), _all("tensors"))
def test_a_tensor_of_another_rank_is_refused(entry: Entry, name: str) -> None:
    spec = call(entry)[name]
    other = laid(spec.dtype, *spec.shape, 1, 1)
    _refused(_asked(entry, **{name: other}), "shape", f"{name} is {list(other.shape)}", entry.tensors[name].source)


@pytest.mark.parametrize(("entry", "name"), _all("tensors"))
def test_a_tensor_that_is_missing_is_refused_where_it_is_needed(entry: Entry, name: str) -> None:
    answer = _asked(entry, **{name: None})
    if entry.tensors[name].optional:
        assert answer
    else:
        _refused(answer, "attribute", f"{name} is None")


@pytest.mark.parametrize(("entry", "name"), _all("tensors"))
def test_a_tensor_with_gaps_is_refused_where_it_must_be_contiguous(entry: Entry, name: str) -> None:
    spec = call(entry)[name]
    spread = replace(spec, shape=spec.shape, stride=tuple(2 * s + 1 for s in spec.stride))
    answer = _asked(entry, **{name: spread})
    if entry.tensors[name].contiguous and max(spec.shape) > 1:
        _refused(answer, "layout", f"{name} is not contiguous", entry.family)
    else:
        assert answer


@pytest.mark.parametrize("entry", [e for e in ENTRIES if not next(iter(e.tensors.values())).empty], ids=_named)
def test_an_empty_tensor_is_refused_where_none_is_taken(entry: Entry) -> None:
    first, rule = next(iter(entry.tensors.items()))
    size = next(term for term in rule.shapes[0] if term.isidentifier())
    answer = check(entry.operator, entry.family, VERSIONS, call(entry, **{size: 0}))
    _refused(answer, "shape", f"{first} is empty", rule.source)


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.same_dtype], ids=_named)
def test_tensors_that_share_a_dtype_are_refused_with_two(entry: Entry) -> None:
    for group in entry.same_dtype:
        name = next(n for n in group[1:] if len(entry.tensors[n].dtypes) > 1)
        other = next(d for d in entry.tensors[name].dtypes if d != str(call(entry)[name].dtype).removeprefix("torch."))
        changed = replace(call(entry)[name], dtype=getattr(torch, other))
        _refused(_asked(entry, **{name: changed}), "dtype", f"{name} is {other}", entry.source)


def _edges(bound: Bound) -> Iterator[tuple[int, int]]:
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


@pytest.mark.parametrize(("entry", "name"), _all("sizes"))
def test_every_size_is_refused_just_outside(entry: Entry, name: str) -> None:
    bound = entry.sizes[name]
    edges = list(_edges(bound))
    assert edges, "a bound that bounds nothing"
    for inside, outside in edges:
        assert check(entry.operator, entry.family, VERSIONS, call(entry, **{name: inside}))
        answer = check(entry.operator, entry.family, VERSIONS, call(entry, **{name: outside}))
        _refused(answer, "shape", f"{name} is {outside}", entry.family, bound.source)


@pytest.mark.parametrize(("entry", "name"), _all("attributes"))
def test_every_attribute_is_refused_just_outside(entry: Entry, name: str) -> None:
    bound = entry.attributes[name]
    if bound.one_of:
        assert all(_asked(entry, **{name: v}) for v in bound.one_of)
        _refused(_asked(entry, **{name: "another"}), "attribute", f"{name} is 'another'", bound.source)
    elif bound != Bound(bound.source):
        for inside, outside in _edges(bound):
            assert _asked(entry, **{name: inside})
            _refused(_asked(entry, **{name: outside}), "attribute", f"{name} is {outside}", bound.source)


def test_no_number_stands_for_a_truth_value() -> None:
    entry = table()["npu_lightning_indexer"]["A2"]
    _refused(_asked(entry, return_value=0), "attribute", "return_value is 0")


@pytest.mark.parametrize(
    ("operator", "family"), [("npu_mhc_post", "A2"), ("npu_clipped_swiglu", "A5"), ("npu_rms_norm", "")]
)
def test_a_chip_that_no_page_names_is_refused(operator: str, family: str) -> None:
    answer = check(operator, family, VERSIONS, {})
    _refused(answer, "device", operator, "is documented for")


@pytest.mark.parametrize("found", ["2.12.1", ""])
def test_an_old_torch_npu_is_refused_and_an_unknown_one_too(found: str) -> None:
    entry = table()["npu_rms_norm"]["A2"]
    answer = check(entry.operator, entry.family, {"torch_npu": found}, call(entry))
    _refused(answer, "version", "needs torch_npu 2.13", found or "not known")


def test_a_least_cann_is_asked_for() -> None:
    text = TABLE.read_text().replace(
        "[npu_mhc_sinkhorn.chips]\nA5 = {}", '[npu_mhc_sinkhorn.chips]\nA5 = { cann = "9.1" }'
    )
    entry = read(text)["npu_mhc_sinkhorn"]["A5"]
    assert entry.cann == "9.1"


def test_the_same_size_is_the_same_in_every_tensor() -> None:
    entry = table()["npu_grouped_matmul"]["A2"]
    other = laid(torch.bfloat16, 3, 9, 4)
    _refused(_asked(entry, weight=other), "shape", "weight is [3, 9, 4]", "K = 8")


def test_a_size_that_is_a_sum_must_come_out() -> None:
    entry = table()["npu_mhc_pre"]["A5"]
    _refused(_asked(entry, phi=laid(torch.float32, 23, 512)), "shape", "phi is [23, 512]", "n*n+2*n", "n = 4")


def test_an_argument_or_operator_that_the_table_has_not_is_a_bug() -> None:
    with pytest.raises(ValueError, match="npu_rms_norm on A2 has no argument 'gama'"):
        check("npu_rms_norm", "A2", VERSIONS, {"gama": None})
    with pytest.raises(KeyError, match="has no operator npu_rms"):
        check("npu_rms", "A2", VERSIONS, {})


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('source = "rms_norm"', 'source = "nobody"', "'nobody' is not listed"),
        ("A5 = {}", "A6 = {}", "chips must be some of A2, A3, A5"),
        ("contiguous = true", "contigous = true", "'contigous' is none of"),
        ("C = { multiple = 2 }", "Z = { multiple = 2 }", "no tensor has a size 'Z'"),
        ('same_dtype = [["input", "r1", "r2"]]', 'same_dtype = [["input", "r9"]]', "'r9', which is no tensor"),
        ("max = 2048 }", "most = 2048 }", "'most' is none of"),
        ('dtypes = ["float32"], shapes = ["D"]', 'dtypes = [], shapes = ["D"]', "dtypes and shapes are needed"),
        ("[sources]\nwheel", "[sources\nwheel", "capabilities: "),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused_when_it_is_read(old: str, new: str, said: str) -> None:
    text = TABLE.read_text()
    assert old in text
    with pytest.raises(BadTable, match=said.replace("(", "\\(")):
        read(text.replace(old, new, 1))


def test_the_table_is_read_without_torch() -> None:
    code = "import sys; from deepport_npu import capability; capability.table(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
