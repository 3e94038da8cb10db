"""Rotary angles (`csrc/cpu/angles.h`)."""

import torch
from torch import Tensor

from deepport.fit import calls
from deepport.kernel import Kernel, Signature, Support
from deepport_cpu.native import call, dense


def rotary_angles(positions: Tensor, frequencies: Tensor, ratio: int = 1) -> tuple[Tensor, Tensor]:
    tokens, pairs = positions.shape[0], frequencies.shape[0]
    cos, sin = torch.empty(tokens, pairs), torch.empty(tokens, pairs)
    call.rotary_angles(dense(positions), dense(frequencies), cos, sin, tokens, pairs, ratio)
    return cos, sin


def _rotary_angles(signature: Signature) -> Support:
    return calls.rotary_angles(signature)


KERNELS = (Kernel("rotary_angles", "native", rotary_angles, _rotary_angles),)
