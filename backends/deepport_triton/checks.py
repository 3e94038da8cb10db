"""What a call's data must not be, where a kernel on a device cannot say so without waiting for it.

A kernel never reads or writes outside of its tensors, whatever the data. Where an operator's reference raises for bad data,

- the interpreter raises too, and so does a device under `DEEPPORT_CHECK=1`, at the price of waiting for it;
- otherwise a row that does not exist is read as NaN (`engram_gather`) or not written (`write_pages`), and what has no scale gets
  NaN for one (`quantize`).

Where -1 means "none" (selected entries, experts), any other id that lies outside means none, too. A sequence whose slot lies
outside has no state: none is written, and results that need it are left open.
"""

from __future__ import annotations

import os

from torch import Tensor

from deepport_triton import interpreting


def checked(t: Tensor) -> bool:
    """Whether these data are looked at before a launch."""
    return not t.is_meta and (interpreting() or os.environ.get("DEEPPORT_CHECK") == "1")


def check_within(numbers: Tensor, end: int, told: str) -> None:
    """Raise IndexError, where data are looked at, if one of these numbers is not in 0 ... end - 1."""
    if checked(numbers) and bool(((numbers < 0) | (numbers >= end)).any()):
        raise IndexError(told)
