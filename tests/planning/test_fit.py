"""What fits, what would, and how much room there is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepport.planning.claims import claims
from deepport.planning.estimate import Estimate, Load, fits
from deepport.planning.fit import _least, largest_batch, largest_context, more_devices, remedies
from deepport.planning.sizes import TABLES, Part, Sizes
from deepport.planning.whatif import variants
from deepport_model.engram_tokens import table_rows
from planning.chips import chip
from planning.models import ENGRAM, planner

LOAD = Load(65536, 8, 256, "device")


def estimate(memory: float, model: str = "tiny-engram", devices: int = 1) -> Estimate:
    return planner(model).estimate(chip(memory=memory, bandwidth=1e12, host_memory=1e8), devices, LOAD)


NEEDED = estimate(1.0).needed


@given(st.integers(1, 1000), st.integers(1, 1200))
def test_the_least_of_what_holds_from_somewhere_on(first: int, most: int) -> None:
    assert _least(lambda n: n >= first, most) == (first if first <= most else 0)


def test_what_fits_has_no_remedy_and_room() -> None:
    found = estimate(NEEDED)
    assert found.fits and remedies(planner("tiny-engram"), found, {}) == []
    assert largest_batch(planner("tiny-engram"), found) == 8
    assert largest_context(planner("tiny-engram"), found) == 65536
    assert not estimate(NEEDED - 1).fits


def test_remedies_are_just_enough() -> None:
    tight = estimate(NEEDED * 0.8)
    own = planner("tiny-engram")
    found = {r.change: r.needed for r in remedies(own, tight, {"int8+int8": planner("tiny-engram", "int8+int8")})}
    assert not tight.fits and found
    devices = more_devices(own, tight)
    sizes = own.sizes(LOAD)
    assert fits(tight.chip, devices, sizes) and not fits(tight.chip, devices - 1, sizes)
    batch, context = largest_batch(own, tight), largest_context(own, tight)
    assert 0 < batch < 8 and 0 < context < 65536 and context % 1024 == 0
    assert {f"{devices} devices", f"--batch {batch}", f"--context {context}"} <= found.keys()
    assert all(needed <= NEEDED * 0.8 for needed in found.values())
    for changed in (Load(65536, batch + 1, 256, "device"), Load(context + 1024, 8, 256, "device")):
        assert not fits(tight.chip, 1, own.sizes_like(changed, tight))


def test_nothing_helps_where_results_alone_do_not_fit() -> None:
    peak = next(p.bytes for p in planner("tiny").sizes(LOAD).parts if p.name == "activations")
    hopeless = estimate(peak / 2, model="tiny")
    assert remedies(planner("tiny"), hopeless, {}) == [] and more_devices(planner("tiny"), hopeless) == 0


def test_unknown_memory_is_neither_enough_nor_too_little() -> None:
    unknown = planner("tiny").estimate(chip(bandwidth=1e12), 1, LOAD)
    assert unknown.fits is None and remedies(planner("tiny"), unknown, {}) == []
    assert largest_batch(planner("tiny"), unknown) == 0


def test_hosts_are_planned_like_devices() -> None:
    sizes = Sizes((Part("weights bfloat16", 10), Part(TABLES, 100, "host")))
    for host, devices, expected in ((99, 1, False), (100, 1, True), (60, 2, True), (49, 2, False)):
        assert fits(chip(memory=1e3, host_memory=float(host)), devices, sizes) is expected
    assert fits(chip(memory=1e3, host_memory=60.0, host_devices=8), 8, sizes) is False, "eight share one host"
    cpu = chip(memory=105.0).model_copy(update={"backend": "cpu"})
    assert fits(cpu, 1, sizes) is False, "a processor's memory is the host's"


def test_the_designs_promises_are_reckoned_with_the_model_at_hand() -> None:
    own = planner("tiny-engram")
    found = claims(own, estimate(NEEDED, devices=2))
    assert found is not None and found.parameters == sum(table_rows(ENGRAM)) * 32
    assert found.before - found.after == pytest.approx(found.bytes, abs=4)
    assert found.saved == pytest.approx(found.bytes / found.before, rel=1e-3)
    assert found.per_hundred_billion == 200e9, "two bytes each"
    assert found.share == found.bytes / 2e8  # two devices, a host each
    assert claims(planner("tiny"), estimate(1.0, model="tiny")) is None


def test_v4_with_v41s_memories_keeps_the_promises() -> None:
    own = planner("v4-flash-engram", "mxfp4+fp8+fp8")
    found = claims(own, own.estimate(chip(memory=80e9), 8, Load(8192, 1, 64, "host")))
    assert found is not None and found.parameters == (384006168 + 384016682) * 256
    assert 0.5 < found.saved < 0.6


def test_variants_change_one_thing_each() -> None:
    found = list(variants(planner("tiny-engram"), estimate(1e9), {"mxfp4": planner("tiny-engram", "mxfp4")}))
    assert [v.change for v in found] == [
        "", "--format mxfp4", "--engram host", "--engram mmap", "--batch 2", "--batch 32"
    ]  # fmt: skip
    plain, quantised, host, mapped, fewer, more = (v.estimate for v in found)
    assert quantised.needed < plain.needed and host.needed == mapped.needed < plain.needed
    assert host.sizes.elsewhere("host") == mapped.sizes.elsewhere("mmap") > 0
    assert fewer.needed < plain.needed < more.needed
    assert (fewer.decode.rate or 0) < (plain.decode.rate or 0) < (more.decode.rate or 0)
