"""Argument checks of the simulated fused operators: the capability table's, for the chip and the versions that are simulated.

The simulator refuses exactly what `deepport_npu.capability` refuses, with CANN's number for it, so that a kernel whose
`supports` asks for something else than its `run` is seen.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Any

from torch import Tensor

from cann import chips
from cann.dispatch import Refused
from deepport.kernel import TensorSpec
from deepport_npu import cann, capability


def taken(operator: str, **arguments: Any) -> None:
    """Raises Refused where the table says that this chip does not take these arguments, under torch_npu's names."""
    family = cann.device(os.environ.get("CANN_SIMULATOR_SOC", chips.CHIPS["A2"])).architecture
    versions = {"torch_npu": version("torch-npu"), "cann": os.environ.get("CANN_SIMULATOR_VERSION", chips.CANN)}
    answer = capability.check(operator, family, versions, {n: _spec(a) for n, a in arguments.items()})
    if not answer:
        raise Refused(f"EZ1001: {answer.reason}")


def _spec(value: Any) -> Any:
    if isinstance(value, Tensor):
        return TensorSpec(value.dtype, tuple(value.shape), tuple(value.stride()))
    return value
