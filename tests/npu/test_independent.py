"""Our reading of the vendor's pages is not the only judge of our calls: others' code for the same thing agrees with it."""

from __future__ import annotations

import json

import pytest
from npu.simulated import run


@pytest.mark.slow
def test_simulated_operators_compute_what_others_compute() -> None:
    errors = json.loads(run("independent").splitlines()[-1])
    assert len(errors) == 10
    # Both sides are float32 with sums of at most 64 terms in another order.
    wrong = {name: error for name, error in errors.items() if error > 2e-6}
    assert not wrong
