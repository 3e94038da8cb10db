"""The kernels in C++ (`csrc/cpu`), at the level of instructions that this processor runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deepport.errors import BackendBroken

try:
    from deepport_cpu import _native  # after torch, whose OpenMP it shares
except ImportError as error:
    raise BackendBroken(f"the CPU kernels cannot be loaded ({error}); build them: pip install --editable .") from error
except RuntimeError as error:  # DEEPPORT_CPU_LEVEL
    raise BackendBroken(str(error)) from error

call: Any = _native
"""`call.rms_norm(x, weight, y, ...)`: parameters as in the headers; tensors give their address, None a null pointer."""


def dense(x: Tensor | None) -> Tensor | None:
    """Without gaps; itself where it is so already."""
    return None if x is None else x.contiguous()


def like(x: Tensor) -> Tensor:
    """Room for a contiguous result of this shape and type."""
    return torch.empty(x.shape, dtype=x.dtype)


def of_result(grads: list[Tensor | None], like: Tensor) -> Tensor:
    """The gradient of the first result, which is like this tensor; zeros where nobody asks for one."""
    return torch.zeros_like(like) if grads[0] is None else grads[0]


def asked(found: Sequence[Tensor | None], output_mask: list[bool]) -> list[Tensor]:
    """Of the gradients those that are masked; an argument that is None has none."""
    return [g for g, wanted in zip(found, output_mask, strict=True) if wanted and g is not None]
