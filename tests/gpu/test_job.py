"""Jobs are what Triton's own launcher would have compiled: types, constants, and what may be assumed of numbers and addresses."""

from __future__ import annotations

import json
from typing import Any

import torch

from deepport_triton.ahead.job import Job, jobs
from deepport_triton.ahead.target import TARGETS
from deepport_triton.ahead.trace import Made
from deepport_triton.architecture import CONFIGURATIONS, Shape, shape
from deepport_triton.kernels.elementwise import _swiglu_block as function
from deepport_triton.launch import Launch, launch, noted

CHIP = "sm_90"


def made(count: int, limit: float = 1.5, rows: int = 8, **constants: Any) -> Made:
    x = torch.empty(rows, 1 << 20, dtype=torch.bfloat16, device="meta")
    return Made("swiglu", CHIP, Launch(function, (1,), (x, x, x, count, limit), {"block": 64, **constants}, 4, 2))


def job(launched: Made, target: str = CHIP) -> Job:
    ((found, _),) = jobs([Made(launched.operator, target, launched.launch)], [TARGETS[target]])
    return found


def test_numbers_are_compiled_for_what_they_are() -> None:
    assert job(made(48)).signature == {
        "gate": "*bf16", "up": "*bf16", "y": "*bf16", "count": "i32", "limit": "fp32", "block": "constexpr"
    }  # fmt: skip
    assert job(made(48)).hints == {0: "D", 1: "D", 2: "D", 3: "D"}
    assert 3 not in job(made(47)).hints
    assert job(made(1)).constants == {"block": 64, "count": 1}
    assert job(made(1 << 40)).signature["count"] == "i64"


def test_amd_is_told_which_tensors_are_small() -> None:
    assert set(job(made(48), "gfx942").hints.values()) == {"DS", "D"}
    assert job(made(48, rows=1024), "gfx942").hints[0] == "DL"


def test_what_is_compiled_apart_has_a_name_of_its_own() -> None:
    launches = [made(48), made(47), made(1), made(48, block=128), made(48, rows=1024)]
    assert len({job(m, "gfx942").name for m in launches}) == 5
    assert len(jobs([*launches, *launches], [TARGETS[CHIP]])) == 4, "sm_90 does not ask how large tensors are"
    assert len(jobs(launches, [TARGETS[CHIP]], brief=True)) == 2, "in brief once for what the kernel chooses"


def test_a_job_crosses_to_another_process() -> None:
    told = json.loads(json.dumps(job(made(1)).as_json()))
    assert (told["module"], told["function"]) == ("deepport_triton.kernels.elementwise", "_swiglu_block")
    assert told["constants"] == {"block": 64, "count": 1}


def test_a_launch_has_its_architectures_shape() -> None:
    name = next(iter(CONFIGURATIONS))
    for architecture, wanted in CONFIGURATIONS[name].items():
        assert shape(name, architecture, Shape(4, 2)) == wanted
    assert shape(name, "", Shape(4, 2)) == shape("another", "sm_90", Shape(4, 2)) == Shape(4, 2)
    with noted("sm_90") as launches:
        launch(function, (1,), torch.empty(1, device="meta"), warps=2, stages=1, block=64)
    assert (launches[0].warps, launches[0].stages) == (2, 1)
