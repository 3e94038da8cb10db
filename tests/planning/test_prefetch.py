"""Rows from the host: when they arrive, what hides them, who waits. Reckoned by hand."""

import pytest

from deepport.chips.profile import Number, Profile
from deepport.planning.bound import Timed, bound
from deepport.planning.estimate import Load
from deepport.planning.prefetch import Fetch, fetches
from deepport.planning.trace import Call
from planning.chips import chip
from planning.models import WITH_ENGRAM, paper, planner

MODEL = paper(WITH_ENGRAM)
SIZE = 10 * 2 * 256 * 2
"""Bytes for ten tokens before a layer: two orders of 256 numbers in bfloat16."""


def steps(seconds: float = 1.0) -> list[Timed]:
    """A second before the layers, and one in each of eight."""
    sites = ["", *(f"layers.{i}.attn" for i in range(8))]
    return [Timed(Call(site, "linear", 0, 0, 0, "bfloat16"), seconds, "memory") for site in sites]


def found(link: float | None, devices: int = 1) -> list[Fetch]:
    return fetches(MODEL, 10, steps(), chip(link=link) if link else chip(), devices)


def test_a_fast_link_is_hidden() -> None:
    first, second = found(link=float(SIZE))  # a second for each layer's rows
    assert first == Fetch(1, SIZE, 1.0, 2.0, 0.0, SIZE / 2.0)
    assert second == Fetch(4, SIZE, 2.0, 5.0, 0.0, 2 * SIZE / 5.0)
    assert (first.hidden, second.hidden) == (True, True)


def test_a_slow_link_is_waited_for_and_what_was_waited_covers_the_next() -> None:
    first, second = found(link=SIZE / 4.0)
    assert (first.arrives, first.cover, first.waits, first.hidden) == (4.0, 2.0, 2.0, False)
    assert (second.arrives, second.cover, second.waits) == (8.0, 5.0, 1.0)  # at 5 s of work, 2 of them waited: 7


def test_an_unknown_link_hides_nothing_and_says_what_it_must_bring() -> None:
    first, second = found(link=None)
    assert (first.arrives, first.hidden, first.waits) == (None, None, 0.0)
    assert (first.rate, second.rate) == (SIZE / 2.0, 2 * SIZE / 5.0)


def test_each_device_brings_its_part() -> None:
    assert [f.bytes for f in found(link=1.0, devices=4)] == [SIZE / 4] * 2


def test_the_rate_that_is_named_is_enough_and_no_less_is() -> None:
    need = max(f.rate for f in found(link=None))
    assert all(f.hidden for f in found(link=need))
    assert not all(f.hidden for f in found(link=need * 0.99))


def test_waiting_is_part_of_a_step() -> None:
    """On the host the device gathers nothing, and waits where the link is slow."""
    fast, slow = (chip({"bfloat16": 1e12}, bandwidth=1e11, link=link) for link in (1e15, 1e6))
    load = Load(1024, 4, 64, "host")
    here, there = (planner("tiny-engram").estimate(c, 1, load).decode for c in (fast, slow))
    assert [f.layer for f in there.fetched] == [1, 4] and not here.waits < 0
    assert here.waits == 0.0 and there.waits == pytest.approx(there.fetched[1].arrives or 0, rel=1e-2)
    assert next(iter(there.shares)) == "host link"
    assert not any(t.call.operator == "engram_gather" for t in there.timed)
    device = planner("tiny-engram").estimate(slow, 1, Load(1024, 4, 64, "device")).decode
    assert any(t.call.operator == "engram_gather" for t in device.timed) and not device.fetched


def test_a_processor_needs_no_link() -> None:
    cpu = chip({"bfloat16": 1e12}, bandwidth=1e11).model_copy(update={"backend": "cpu"})
    assert planner("tiny-engram").estimate(cpu, 1, Load(64, 1, 64, "host")).decode.fetched == []


def test_bound_is_of_all_calls() -> None:
    assert len(bound([t.call for t in steps()], chip(), 1)) == 9


def test_a_mapped_file_is_warm_for_a_bound_and_cold_beside_it() -> None:
    """Rows of 64 bytes, ten tokens of 8 rows before a layer; a disk that reads 2 such rows a second at most, of 256 bytes 2."""
    first, second = fetches(MODEL, 10, steps(), _on_disk(2.0), 1, mapped=True)
    rows = 10 * WITH_ENGRAM.engram.heads  # type: ignore[union-attr]
    row = WITH_ENGRAM.engram.row_width * 2  # type: ignore[union-attr]
    assert first.cold is not None and second.cold is not None
    assert row < 256 and first.cold == pytest.approx(rows * row / (2.0 * 256))
    assert second.cold == pytest.approx(2 * first.cold)
    assert first.waits == second.waits == 0.0 and first.hidden  # the link is what a bound counts with
    assert first.waits_cold == pytest.approx(first.cold - 2.0)
    assert second.waits_cold == pytest.approx(second.cold - 5.0 - first.waits_cold)


def test_where_no_disk_was_probed_cold_is_unknown() -> None:
    assert [(f.mapped, f.cold, f.hidden) for f in fetches(MODEL, 10, steps(), chip(link=1e9), 1, mapped=True)] == [
        (True, None, True)
    ] * 2


def test_large_rows_are_read_as_often_as_smaller_ones_at_most() -> None:
    disk = _on_disk(2.0)
    assert [disk.rows_from_file(row) for row in (64, 256, 4096)] == [512.0, 512.0, 8192.0]
    assert chip().rows_from_file(64) is None


def test_a_processor_reads_a_mapped_file_while_it_computes() -> None:
    cpu = _on_disk(1e3).model_copy(update={"backend": "cpu"})
    fetched = planner("tiny-engram").estimate(cpu, 1, Load(64, 1, 64, "mmap")).decode.fetched
    assert [(f.layer, f.arrives, f.waits) for f in fetched] == [(1, 0.0, 0.0), (4, 0.0, 0.0)]
    assert all(f.cold for f in fetched)


def _on_disk(rows: float) -> Profile:
    """A chip whose host reads so many rows of 256 bytes a second."""
    return chip({"bfloat16": 1e12}, bandwidth=1e11, link=1e9).model_copy(
        update={"file": {256: Number(value=rows * 256, source="s")}}
    )
