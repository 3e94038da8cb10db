"""Memories on the host, by pinned staging memory and side streams; a device that runs late shows each wait that is missing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from npu.simulated import run


def _last(printed: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


FAULTS = {"no wait for the copy", "staging used again too early", "memory given out again too early"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "options"), [("npu", "--lazy"), ("npu", "--lazy --task-queue 1"), ("npu:1", "--lazy --devices 2")]
)
def test_rows_are_right_and_every_safeguard_is_needed(device: str, options: str) -> None:
    assert _last(run("tables", device, options=options)) == {"as it is": True} | dict.fromkeys(FAULTS, False)


@pytest.mark.slow
@pytest.mark.parametrize(("soc", "options"), [("A2", ""), ("A3", "--lazy"), ("A5", "--lazy --task-queue 1")])
def test_text_with_memories_on_the_host_is_the_cpu_s(soc: str, options: str) -> None:
    found = _last(run("hosted", soc=soc, options=options))
    assert found["npu"] == found["cpu"] and found["cpu"].strip()
    assert (found["tables"], found["others"]) == (["cpu"], ["npu"])
    assert len(found["pinned"]) >= 8 and all(found["pinned"])
