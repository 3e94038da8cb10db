"""Tensors between pages that nobody may touch: who reads or writes past them ends the process."""

from __future__ import annotations

import ctypes
import mmap

import torch
from torch import Tensor

_NONE = 0  # PROT_NONE


def guarded(tensor: Tensor) -> Tensor:
    """A contiguous copy that ends where such a page begins; another one lies before it."""
    if not tensor.numel():
        return tensor.clone()
    page = mmap.PAGESIZE
    length = -(-tensor.nbytes // page) * page
    memory = mmap.mmap(-1, length + 2 * page)
    raw = torch.frombuffer(memory, dtype=torch.uint8)  # keeps the memory alive
    for place in (0, length + page):
        if ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(raw.data_ptr() + place), page, _NONE):
            raise OSError(ctypes.get_errno(), "mprotect")
    copy = raw[page + length - tensor.nbytes : page + length].view(tensor.dtype).view(tensor.shape)
    return copy.copy_(tensor)
