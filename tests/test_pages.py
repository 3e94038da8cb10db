"""Advice on huge pages: that the system has taken it, and that nothing else is different."""

import re
from pathlib import Path

import pytest
import torch

from deepport.pages import on_huge_pages

_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def _huge(t: torch.Tensor) -> int:
    """Kilobytes of huge pages in the mapping that the tensor lies in."""
    inside, middle = False, t.data_ptr() + t.nbytes // 2
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if span := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(span[1], 16) <= middle < int(span[2], 16)
        elif inside and line.startswith("AnonHugePages:"):
            return int(line.split()[1])
    return 0


@pytest.mark.skipif(
    not _ENABLED.exists() or "[never]" in _ENABLED.read_text(), reason="this system gives no huge pages on advice"
)
def test_a_large_tensor_lies_on_huge_pages() -> None:
    t = on_huge_pages(torch.empty(64 << 20, dtype=torch.uint8))
    t.fill_(7)
    assert _huge(t) >= 32 << 10
    assert bool((t == 7).all())


def test_what_is_small_or_elsewhere_is_left_alone() -> None:
    for t in (torch.empty(0), torch.empty(10), torch.empty(1 << 21, 2).T, torch.empty(1 << 22, device="meta")):
        assert on_huge_pages(t) is t
