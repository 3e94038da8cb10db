"""Faults planted in a copy of the runtime code of every backend are found, each by its rule and at its place."""

from __future__ import annotations

import pytest

from sim.conftest import Program
from sim.programs.faults import FAULTS


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(program: Program, name: str) -> None:
    fault, found = FAULTS[name], program("faults")[name]
    if not fault.rule:
        assert found == {"raised": None, "rules": []}
        return
    assert f"deepport_sim: {fault.rule}: " in found["raised"]
    if fault.rule == "host-access":
        assert found["ended"] < 0 and "deepport_model/" in found["raised"]  # Python's stack
    else:
        assert found["rules"][0] == fault.rule


@pytest.mark.slow
def test_places_are_those_of_the_faults(program: Program) -> None:
    """Where the fault is a line of its own, that is the line which is named."""
    found = program("faults")
    files = {
        "one staging buffer": "deepport/table.py:",
        "staging not pinned": "deepport/table.py:",
        "an item in a step": "deepport_model/transformer.py:",
        "a mask in a step": "deepport_model/transformer.py:",
        "a list in a step": "deepport_model/transformer.py:",
        "slots left on the host": "deepport_model/cache.py:",
        "state that nobody clears": "deepport_model/engram.py:",
        "an item before a launch": "deepport_triton/kernels/elementwise.py:",
        "a copy to the host before a launch": "deepport_triton/kernels/elementwise.py:",
        "an item for the vendor": "deepport_npu/kernels/moe.py:",
        "a list for the vendor": "deepport_npu/kernels/moe.py:",
    }
    named = {name: found[name]["raised"].rpartition(" at ")[2] for name in files}
    assert not {name: place for name, place in named.items() if files[name] not in place}
