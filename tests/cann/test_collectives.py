"""torch.distributed over the simulated HCCL, in two processes."""

import pytest

from cann.conftest import Program

BOTH = {
    "all_reduce": [10.0, 12.0, 14.0, 16.0],
    "max": [10.0, 11.0, 12.0, 13.0],
    "broadcast": [10.0, 11.0, 12.0, 13.0],
    "all_gather": [0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0],
    "send": [0.0, 1.0, 2.0, 3.0],
}
EACH = [
    {"reduce_scatter": [10.0, 12.0], "all_to_all": [0.0, 10.0, 11.0]},
    {"reduce_scatter": [14.0, 16.0], "all_to_all": [1.0, 2.0, 3.0, 12.0, 13.0]},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", ["", "--lazy", "--lazy --task-queue 1"])
def test_two_processes_agree(program: Program, options: str) -> None:
    """Each has 0, 1, 2, 3, and ten more in the second process."""
    assert program("collectives", f"--devices 2 {options}") == [BOTH | each for each in EACH]
