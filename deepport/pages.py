"""Where large tensors of the host lie: on huge pages, and spread over the machine's memory nodes.

What is read at random, or streamed, then seldom waits for an address. Measured on Emerald Rapids, random rows of a table of
1 GiB: 512 B 1.2 times as fast as with pages of 4 KiB, 256 B 1.6 times.

On a machine of several nodes (sockets, or parts of one) memory that one thread writes first would lie on that thread's node,
and all others would read through its channels; page by page over all nodes, everybody has the channels of all. That was tried
on a machine of one node only: the system takes the policy.
"""

import ctypes
import mmap
import platform
from functools import cache
from pathlib import Path

from torch import Tensor

_LEAST = 4 << 20
"""Bytes from which on it is worth asking: a huge page has 2 MiB."""

_NODES = Path("/sys/devices/system/node/has_memory")
_MBIND = {"x86_64": 237, "aarch64": 235}
"""The system call's number: its wrapper is in a library that need not be there."""
_INTERLEAVE = 3  # MPOL_INTERLEAVE


def well_placed(t: Tensor) -> Tensor:
    """The tensor itself, whose memory nobody has written to yet: the system is told where it shall lie when somebody does.

    Advice, which changes no result. It is given for contiguous tensors on the host, where the system takes it (Linux).
    """
    if t.device.type == "cpu" and t.is_contiguous() and t.nbytes >= _LEAST:
        first = -(-t.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        length = t.data_ptr() + t.nbytes - first
        _on_huge_pages(first, length)
        if len(nodes()) > 1:
            spread(first, length, nodes())
    return t


@cache
def nodes(path: Path = _NODES) -> tuple[int, ...]:
    """The memory nodes of this machine, from a list as `0-1,4`; none where the system does not tell."""
    try:
        parts = [part.partition("-") for part in path.read_text().strip().split(",")]
        return tuple(n for first, _, last in parts for n in range(int(first), int(last or first) + 1))
    except (OSError, ValueError):
        return ()


def spread(first: int, length: int, over: tuple[int, ...]) -> bool:
    """Let the pages from this address on come from these nodes in turn; whether the system takes that."""
    number = _MBIND.get(platform.machine())
    if number is None:
        return False
    bits = 8 * ctypes.sizeof(ctypes.c_ulong)
    mask = (ctypes.c_ulong * (max(over) // bits + 1))()
    for node in over:
        mask[node // bits] |= 1 << node % bits
    place, size, most = ctypes.c_void_p(first), ctypes.c_ulong(length), ctypes.c_ulong(len(mask) * bits + 1)
    answer = ctypes.CDLL(None).syscall(ctypes.c_long(number), place, size, _INTERLEAVE, mask, most, 0)
    return bool(answer == 0)


def _on_huge_pages(first: int, length: int) -> None:
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is not None:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), advice)
