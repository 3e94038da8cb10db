"""How a GPU's limits are probed: by torch's own kernels, with enough of everything. Written without a GPU; none has run it."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from deepport.bench.peak import Peak, torch_peaks

_SIZE = 8192
"""Rows and columns of a product that is far longer than its launch, and keeps every multiprocessor busy."""

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def peaks(beyond: int) -> Iterator[Peak]:
    """Of the current device; `beyond`: bytes that no cache keeps."""
    return iter(torch_peaks(torch.device("cuda", torch.cuda.current_device()), beyond, _DTYPES, _SIZE))
