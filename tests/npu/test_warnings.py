"""Of torch_npu's warnings, one is noise to whoever runs deepport, and only that is not shown."""

from __future__ import annotations

import json

import pytest
from npu.simulated import run

from deepport_npu import NOISE


@pytest.mark.slow
def test_only_noise_is_silenced() -> None:
    before, after = (json.loads(run("warned", state).splitlines()[-1]) for state in ("not started", "started"))
    assert [message.startswith(NOISE) for message in before] == [True, False]
    assert after == ["Cannot create something else"]
