"""What a call streams is cold: in no cache since it was last read."""

from typing import Any

import pytest
import torch
from torch import Tensor

from deepport.bench.rotation import Rotation, rotate


def arguments(size: int) -> dict[str, Any]:
    return {"x": torch.ones(4), "w": torch.ones(size, dtype=torch.uint8), "scale": None, "format": "plain"}


def addresses(found: Rotation) -> list[int]:
    return [v["w"].data_ptr() for v in found.variants]


@pytest.mark.parametrize(
    ("size", "beyond", "copies"), [(100, 1000, 10), (300, 1000, 4), (1000, 1000, 1), (5000, 1000, 1)]
)
def test_copies_exceed_the_cache(size: int, beyond: int, copies: int) -> None:
    given = arguments(size)
    found = rotate(given, ("w", "scale"), size, beyond, None)
    assert len(set(addresses(found))) == len(found.variants) == copies
    assert not found.evict
    assert all(v["x"] is given["x"] and v["scale"] is None for v in found.variants)
    assert all(torch.equal(v["w"], given["w"]) for v in found.variants)


def test_other_ids_touch_other_rows_of_few_copies() -> None:
    """A call reads a tenth of its weight: two copies, read at other places twenty times."""

    def vary(given: dict[str, Any], number: int) -> dict[str, Any]:
        return {"x": torch.full((1,), number)}

    found = rotate(arguments(500), ("w", "scale"), 50, 1000, vary)
    assert [int(v["x"]) for v in found.variants] == list(range(20))
    assert len(set(addresses(found))) == 2
    assert not found.evict


def test_what_is_too_small_for_that_is_evicted_in_between() -> None:
    found = rotate(arguments(10), ("w", "scale"), 10, 1 << 20, lambda given, number: {})
    assert found.evict
    assert len(found.variants) == 4096


def test_copies_are_whole() -> None:
    """Formats of one byte, and views, are copied as they are."""
    data: Tensor = torch.arange(64).to(torch.float8_e4m3fn).view(8, 8)
    found = rotate({"w": data}, ("w",), 64, 256, None)
    assert all(torch.equal(v["w"].view(torch.uint8), data.view(torch.uint8)) for v in found.variants)
