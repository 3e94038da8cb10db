"""PyTorch's own samples of the operators that the model uses give on the device what they give on the CPU."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import pytest

from sim.conftest import Program


@pytest.fixture(scope="module")
def found(program: Program) -> Any:
    if os.environ.get("CI") != "true" and not find_spec("expecttest"):
        pytest.skip("torch's own tests need expecttest; pip install expecttest")
    return program("opinfo")


@pytest.mark.slow
def test_no_sample_fails(found: Any) -> None:
    assert found["failed"] == {}


@pytest.mark.slow
def test_samples_cover_what_the_model_uses(found: Any) -> None:
    assert found["without"] == ["zero"]  # zero_(), of which every test here is made
    assert len(found["compared"]) >= 70 and sum(found["compared"].values()) >= 1000
    assert not [name for name, count in found["compared"].items() if not count]
    assert {"add", "__getitem__", "index_put", "softmax", "sort", "nn_functional_conv1d"} <= found["compared"].keys()
