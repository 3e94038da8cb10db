"""Advice on pages: that the system has taken it, and that nothing else is different."""

import mmap
import re
from pathlib import Path

import pytest
import torch

from deepport.pages import nodes, spread, well_placed

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
def test_a_large_tensor_lies_well_placed() -> None:
    t = well_placed(torch.empty(64 << 20, dtype=torch.uint8))
    t.fill_(7)
    assert _huge(t) >= 32 << 10
    assert bool((t == 7).all())


def test_what_is_small_or_elsewhere_is_left_alone() -> None:
    for t in (torch.empty(0), torch.empty(10), torch.empty(1 << 21, 2).T, torch.empty(1 << 22, device="meta")):
        assert well_placed(t) is t


@pytest.mark.parametrize(
    ("text", "found"), [("0\n", (0,)), ("0-1\n", (0, 1)), ("0,2-3,64\n", (0, 2, 3, 64)), ("\n", ()), (None, ())]
)
def test_nodes_are_read_from_a_list(tmp_path: Path, text: str | None, found: tuple[int, ...]) -> None:
    if text is not None:
        (tmp_path / "list").write_text(text)
    assert nodes(tmp_path / "list") == found


@pytest.mark.skipif(not nodes(), reason="this system tells of no memory nodes")
def test_pages_are_taken_from_nodes_in_turn() -> None:
    with mmap.mmap(-1, 8 << 20) as memory:
        address = torch.frombuffer(memory, dtype=torch.uint8).data_ptr()
        if not spread(address, len(memory), nodes()):
            pytest.skip("this system lets nobody choose nodes, as containers may")
        (line,) = (x for x in Path("/proc/self/numa_maps").read_text().splitlines() if x.startswith(f"{address:x} "))
        assert line.split()[1].startswith("interleave:")
        assert not spread(address, len(memory), (1023,)), "there is no such node"
