"""The chip that kernels are listed for, as their `supports` sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import Any

import torch

from deepport.kernel import YES, Support, TensorSpec
from deepport_npu import capability


@dataclass(frozen=True)
class Chip:
    """A generation of chip, and the installed torch_npu and CANN."""

    family: str
    versions: Mapping[str, str]

    def takes(self, operator: str, **arguments: Any) -> Support:
        """What the capability table answers to a call of a vendor operator."""
        return capability.check(operator, self.family, self.versions, arguments)


def laid(dtype: torch.dtype, *shape: int) -> TensorSpec:
    """A contiguous tensor that a kernel makes on its way to the vendor."""
    strides = accumulate((max(n, 1) for n in reversed(shape[1:])), mul, initial=1)
    return TensorSpec(dtype, shape, tuple(reversed([*strides][: len(shape)])))


def every(*answers: Support) -> Support:
    """The first refusal, or YES."""
    return next((a for a in answers if not a), YES)
