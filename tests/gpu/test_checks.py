"""Data that point outside: where data are looked at the call raises, and elsewhere nothing outside is touched.

The guard is on in every test here: a kernel that follows such an id ends with its fault.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from deepport.spec import case
from deepport_triton import checks
from deepport_triton.kernels import KERNELS
from gpu.judged import drawn, operators

FAR = (-1, -(1 << 33), 1 << 33)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device, which nobody waits for."""
    monkeypatch.setattr(checks, "interpreting", lambda: False)
    monkeypatch.delenv("DEEPPORT_CHECK", raising=False)


def arguments(operator: str, **given: Any) -> dict[str, Any]:
    return drawn(operators[operator], case(next(iter(operators[operator].cases)).builder, **given))


def run(operator: str, given: dict[str, Any]) -> Any:
    return next(k for k in KERNELS if k.operator == operator).run(*given.values())


def gathered() -> dict[str, Any]:
    return arguments("engram_gather", rows=5, width=64, shape=(4,), format="fp8_e4m3:1x32", dtype=torch.bfloat16)


def written() -> dict[str, Any]:
    return arguments("write_pages_", lengths=(3, 1), first=(0, 3), page=4, padding=1, dtype=torch.float32)


@pytest.mark.parametrize("bad", FAR)
def test_a_device_is_asked_to_look(bad: int, monkeypatch: pytest.MonkeyPatch, unchecked: None) -> None:
    monkeypatch.setenv("DEEPPORT_CHECK", "1")
    given = gathered()
    given["ids"][1] = bad
    with pytest.raises(IndexError, match="an id lies outside the table's 5 rows"):
        run("engram_gather", given)
    given = written()
    given["positions"][1] = bad
    with pytest.raises(IndexError, match="a position lies outside the table, which holds 8 entries"):
        run("write_pages_", given)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("bad", FAR)
def test_a_row_that_is_not_there_is_nan(bad: int) -> None:
    given = gathered()
    right = run("engram_gather", given)
    given["ids"][1] = bad
    found = run("engram_gather", given)
    assert found[1].isnan().all()
    assert torch.equal(found[[0, 2, 3]], right[[0, 2, 3]])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("bad", FAR)
def test_an_entry_that_is_not_there_is_not_written(bad: int) -> None:
    given = written()
    before = given["pages"].clone()
    given["positions"][:] = bad
    run("write_pages_", given)
    assert torch.equal(given["pages"], before)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("power_of_two", [True, False])
def test_what_has_no_scale_gets_nan(bad: float, power_of_two: bool) -> None:
    x = torch.randn(2, 64)
    x[1, 40] = bad
    data, scale = run("quantize", {"x": x, "format": "fp8_e4m3:1x32", "power_of_two": power_of_two})
    plain = operators["dequantize"].reference(data, scale, "fp8_e4m3:1x32", torch.float32)
    assert plain[1, 32:].isnan().all()
    assert plain[0].isfinite().all() and plain[1, :32].isfinite().all()


def same(found: Any, right: Any) -> bool:
    pairs = zip(found, right, strict=True) if isinstance(found, tuple) else ((found, right),)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("bad", [99, 1 << 30, -7])
def test_ids_outside_mean_none(bad: int) -> None:
    given = arguments(
        "sparse_attention", lengths=(2, 1), first=(20, 40), scope="selected", sink=True, dtype=torch.float32, k=6
    )
    given["indices"][:, 0] = -1
    right = run("sparse_attention", given)
    given["indices"][:, 0] = bad
    assert same(run("sparse_attention", given), right)

    given = arguments("moe_experts", tokens=3, k=2, experts=4, ids="dropped", format="plain", dtype=torch.float32)
    given["ids"][1, 0] = -1
    right = run("moe_experts", given)
    given["ids"][1, 0] = bad
    assert same(run("moe_experts", given), right)


@pytest.mark.parametrize("operator", ["compress_kv_", "engram_conv_"])
@pytest.mark.parametrize("bad", [-1, 99])
def test_a_slot_outside_is_nobodys_state(operator: str, bad: int) -> None:
    given = (
        arguments(operator, lengths=(5, 2), first=(2, 4), ratio=4, overlap=True, dtype=torch.float32)
        if operator == "compress_kv_"
        else arguments(operator, lengths=(3, 1), kernel=3, dilation=1, dtype=torch.float32)
    )
    slots: Tensor = given["slots"]
    state, own = given["state"].clone(), int(slots[0])
    slots[0] = bad
    run(operator, given)
    assert torch.equal(given["state"][own], state[own])
