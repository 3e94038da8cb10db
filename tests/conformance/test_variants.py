"""Far memory holds the same call, costs little, and tells a kernel that addresses it in 32 bits."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import deepport.ops  # noqa: F401
from deepport import formats
from deepport.conformance import gates, grids, variants
from deepport.conformance.oracle import listed
from deepport.conformance.variants import FAR, NotHere, Strayed, far
from deepport.op import Operator, operators
from deepport.spec import Case

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the mapping's size is read from /proc")
CPU = torch.device("cpu")
CASES = [
    pytest.param(o, c, id=f"{o.name}-{c.label}")
    for o in operators.values()
    if not o.name.endswith("_backward")
    for c in grids.special.cases(o)
    if c.variant == "far"
]


def call(operator: Operator[..., Any], run: Any, arguments: dict[str, Any]) -> list[Tensor]:
    results = listed(run(**arguments))
    return [*results, *(arguments[n] for n in operator.mutates)]


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(gates.exact("", a, b, None)[0].status == "pass" for a, b in zip(left, right, strict=True))


def mapped() -> int:
    """Bytes of address space in use."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_every_operator_that_addresses_rows_has_a_far_case() -> None:
    assert {p.values[0].name for p in CASES} == variants._MOVABLE.keys()


@pytest.mark.parametrize(("operator", "case"), CASES)
def test_the_far_call_is_the_same_call(operator: Operator[..., Any], case: Case) -> None:
    arguments = operator.defaults | case.arguments()
    moved, collect = far(operator.name, arguments, CPU)
    expected = call(operator, operator.reference, operator.defaults | case.arguments())
    assert same(collect(call(operator, operator.reference, moved)), expected)
    for group in variants._MOVABLE[operator.name]:
        if arguments[group.data[0]] is not None:
            rows = moved[group.data[0]]
            assert int(moved[group.ids].min()) * rows[0].numel() >= FAR


def test_far_memory_is_cheap_and_given_back() -> None:
    operator = operators["sparse_attention"]
    (case,) = [p.values[1] for p in CASES if "scope=all,dtype=float32" in str(p.id)]
    arguments = case.arguments()
    operator.reference(**arguments)  # loads what it needs
    before, held, begin = mapped(), resident(), time.perf_counter()
    moved, collect = far(operator.name, arguments, CPU)
    call(operator, operator.reference, moved)
    assert time.perf_counter() - begin < 1
    assert mapped() - before > 2 * FAR * 4  # two caches of float32
    assert resident() - held < 16 << 20
    del moved, collect
    assert mapped() - before < 1 << 28


def addressed(rows: Tensor, ids: Tensor, wrap: bool, in_bytes: bool) -> Tensor:
    """`rows[ids]` by a kernel whose offsets, of elements or of bytes, are signed 64-bit integers, or `wrap` at 32 bits."""
    unit = rows.element_size() if in_bytes else 1
    width = rows[0].numel() * unit
    offset = ids.long() * width
    offset = (offset + FAR) % (2 * FAR) - FAR if wrap else offset
    start = rows.storage_offset() * rows.element_size()
    memory = torch.as_strided(rows.view(torch.uint8), (1,), (1,), 0).untyped_storage()
    flat = torch.empty(0, dtype=torch.uint8).set_(memory)
    scale = 1 if in_bytes else rows.element_size()
    at = start + offset[..., None] * scale + torch.arange(rows[0].nbytes)
    return flat[at].view(rows.dtype).view(*ids.shape, *rows.shape[1:])


@pytest.mark.parametrize("in_bytes", [False, True])
@pytest.mark.parametrize("format", ["plain", "fp8_e4m3:1x32"])
def test_a_gather_with_32_bit_offsets_is_seen(format: str, in_bytes: bool) -> None:
    operator = operators["engram_gather"]
    (case,) = [
        p.values[1]
        for p in CASES
        if f"engram_gather-far: rows=50,width=64,shape=7x4,format={format},dtype=float32" == p.id
    ]
    arguments = operator.defaults | case.arguments()
    moved, collect = far(operator.name, arguments, CPU)

    def gather(wrap: bool) -> list[Tensor]:
        rows, scale = (
            None if t is None else addressed(t, moved["ids"], wrap, in_bytes) for t in (moved["rows"], moved["scale"])
        )
        assert rows is not None
        return [formats.decode(rows, scale, format, torch.float32)]

    expected = call(operator, operator.reference, arguments)
    assert same(collect(gather(False)), expected)
    assert not same(collect(gather(True)), expected)


@pytest.mark.parametrize("in_bytes", [False, True])
def test_a_scale_with_32_bit_offsets_is_seen(in_bytes: bool) -> None:
    """The data's offsets are right; only the scale's overflow, being fewer."""
    (case,) = [p.values[1] for p in CASES if "format=fp8_e4m3:1x32,dtype=bfloat16" in str(p.id)]
    arguments = case.arguments()
    moved, _ = far("engram_gather", arguments, CPU)
    right, wrong = (addressed(moved["scale"], moved["ids"], wrap, in_bytes) for wrap in (False, True))
    assert same([right], [arguments["scale"].view(torch.uint8)[arguments["ids"]].view(arguments["scale"].dtype)])
    assert not same([right], [wrong])


@pytest.mark.parametrize("name", ["index_topk", "sparse_attention"])
@pytest.mark.parametrize("in_bytes", [False, True])
def test_a_cache_read_with_32_bit_offsets_is_seen(name: str, in_bytes: bool) -> None:
    operator = operators[name]
    for case in [p.values[1] for p in CASES if p.values[0].name == name]:
        arguments = case.arguments()
        moved, collect = far(name, arguments, CPU)
        near = dict(moved)
        for group in variants._MOVABLE[name]:
            if (pages := moved[group.data[0]]) is not None:
                table = moved[group.ids]
                read = addressed(pages, table.flatten(), True, in_bytes)
                near |= {group.data[0]: read, group.ids: torch.arange(table.numel()).view(table.shape).int()}
        expected = call(operator, operator.reference, arguments)
        assert not same(collect(call(operator, operator.reference, near)), expected), case.label


def test_a_cache_write_with_32_bit_offsets_is_seen() -> None:
    operator = operators["write_pages_"]
    case: Case = next(p.values[1] for p in CASES if p.values[0] is operator)
    arguments = case.arguments()
    expected = call(operator, operator.reference, case.arguments())
    moved, collect = far(operator.name, arguments, CPU)
    assert same(collect([moved["pages"]]), [arguments["pages"]])
    assert not same(collect([moved["pages"]]), expected)  # all its writes went elsewhere


def test_a_write_beside_a_page_is_seen() -> None:
    case: Case = next(p.values[1] for p in CASES if p.values[0].name == "write_pages_")
    moved, collect = far("write_pages_", case.arguments(), CPU)
    moved["pages"][int(moved["table"][0, 0]) + 1, 0, 0] = 1.0
    with pytest.raises(Strayed, match="beside"):
        collect([moved["pages"]])


def test_memory_that_is_not_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    case: Case = next(p.values[1] for p in CASES if p.values[0].name == "engram_gather")
    monkeypatch.setattr(variants, "_ROOM", 1 << 60)
    with pytest.raises(NotHere, match="GiB of address space"):
        far("engram_gather", operators["engram_gather"].defaults | case.arguments(), CPU)
