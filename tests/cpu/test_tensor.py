"""Tensors as arguments of the kernels in C++ (`csrc/cpu/tensor.h`)."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from deepport_cpu import _native


class Failing(TorchFunctionMode):
    """Raises an error where a tensor is asked for its address, as what a capture sees is."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function == Tensor.data_ptr:
            raise self.error
        return function(*args, **(kwargs or {}))


def rotate(x: object) -> None:
    _native.rotary(x, torch.ones(1, 2), torch.zeros(1, 2), torch.empty(1, 1, 4), torch.float32, 1, 1, 4, 2, False)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no storage")])
def test_what_fails_meanwhile_is_no_wrong_argument(error: BaseException) -> None:
    x = torch.ones(1, 1, 4)
    with Failing(error), pytest.raises(type(error)) as raised:
        rotate(x)
    assert raised.value is error


def test_what_is_no_tensor_is_a_wrong_argument() -> None:
    with pytest.raises(TypeError, match="incompatible function arguments"):
        rotate("x")
