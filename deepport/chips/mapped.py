"""Rows read at random from a file that is mapped and of which nothing is in memory: how Engram's tables come from a disk."""

from __future__ import annotations

import mmap
import os
import resource
import tempfile
import weakref
from pathlib import Path

import torch

from deepport import formats, ops
from deepport.bench.timing import Stopwatch
from deepport.policy import Session
from deepport.runtime import HostRuntime

_BYTES = 256 << 20
"""Of the file. A virtual machine's host may keep it in memory of its own: the rate is then more than the disk's, and a bound."""

_ROWS = 512
"""Rows of one probe."""


class MappedFile:
    """A file in a folder; it goes with the object."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (it lives as long as the object)
        for _ in range(_BYTES >> 20):  # no zeros, which some disks do not store
            self._file.write(os.urandom(1 << 20))
        self._file.flush()
        os.fsync(self._file.fileno())
        weakref.finalize(self, self._file.close)
        self._stopwatch = Stopwatch(HostRuntime())

    def rate(self, row: int) -> float | None:
        """Bytes a second of rows of so many bytes; None where the system keeps the file in memory, or cannot say."""
        if not hasattr(os, "posix_fadvise"):
            return None
        os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        mapped = mmap.mmap(self._file.fileno(), _BYTES)
        mapped.madvise(mmap.MADV_RANDOM)  # nothing ahead: the next row is elsewhere
        table = torch.frombuffer(mapped, dtype=torch.bfloat16).view(-1, row // 2)
        ids = torch.randint(0, len(table), (_ROWS,))
        before = _read_from_disk()
        with torch.inference_mode(), Session():
            seconds = self._stopwatch.seconds(
                lambda: ops.engram_gather(table, ids, None, formats.PLAIN, torch.bfloat16)
            )
        return _ROWS * row / seconds if _read_from_disk() - before >= _ROWS // 2 else None


def _read_from_disk() -> int:
    """Pages that this process had to wait for."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt
