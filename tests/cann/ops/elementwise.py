"""Element by element: one and two tensors, a tensor and a number, and the same in place.

Each computes torch's function on operands as they come, in the type that torch computes it in, and rounds once to the
output's type: aclnn's outputs are allocated by the caller, so a result may be wider or narrower than its operands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cann.dispatch import aclnn

Number = bool | int | float | complex
Function = Callable[..., Tensor]

UNARY: dict[str, Function] = {
    "Abs": torch.abs, "BitwiseNot": torch.bitwise_not, "Ceil": torch.ceil, "Cos": torch.cos, "Erf": torch.erf,
    "Exp": torch.exp, "Exp2": torch.exp2, "Expm1": torch.expm1, "Floor": torch.floor, "Frac": torch.frac,
    "IsFinite": torch.isfinite, "IsNegInf": torch.isneginf, "IsPosInf": torch.isposinf, "Log": torch.log,
    "Log10": torch.log10, "Log1p": torch.log1p, "Log2": torch.log2,
    "LogicalNot": torch.logical_not, "Neg": torch.neg, "Reciprocal": torch.reciprocal, "Relu": torch.relu,
    "Round": torch.round, "Rsqrt": torch.rsqrt, "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Signbit": torch.signbit,
    "Silu": F.silu, "Sin": torch.sin, "Sqrt": torch.sqrt, "Tan": torch.tan, "Tanh": torch.tanh, "Trunc": torch.trunc,
}  # fmt: skip
UNARY_IN_PLACE = (
    "Ceil", "Cos", "Erf", "Exp", "Exp2", "Expm1", "Floor", "Frac", "Log", "Log10", "Log1p", "Log2", "LogicalNot",
    "Reciprocal", "Relu", "Rsqrt", "Sigmoid", "Sin", "Sqrt", "Tan", "Tanh",
)  # fmt: skip
BINARY: dict[str, Function] = {
    "Atan2": torch.atan2, "BitwiseAndTensor": torch.bitwise_and, "BitwiseOrTensor": torch.bitwise_or,
    "BitwiseXorTensor": torch.bitwise_xor, "ClampMaxTensor": torch.clamp_max, "ClampMinTensor": torch.clamp_min,
    "Div": torch.div, "EqTensor": torch.eq, "FloorDivide": torch.floor_divide, "FmodTensor": torch.fmod,
    "GeTensor": torch.ge, "GtTensor": torch.gt, "LeTensor": torch.le, "LeftShift": torch.bitwise_left_shift,
    "LogAddExp": torch.logaddexp, "LogicalAnd": torch.logical_and, "LogicalOr": torch.logical_or,
    "LogicalXor": torch.logical_xor, "LtTensor": torch.lt, "Maximum": torch.maximum, "Minimum": torch.minimum,
    "Mul": torch.mul, "NeTensor": torch.ne, "PowTensorTensor": torch.pow, "RemainderTensorTensor": torch.remainder,
    "RightShift": torch.bitwise_right_shift,
}  # fmt: skip
BINARY_IN_PLACE = (
    "Atan2", "BitwiseAndTensor", "BitwiseXorTensor", "ClampMaxTensor", "ClampMinTensor", "Div", "EqTensor",
    "FloorDivide", "FmodTensor", "GeTensor", "GtTensor", "LeTensor", "LogicalAnd", "LogicalOr", "LtTensor", "Mul",
    "NeTensor", "PowTensorTensor", "RemainderTensorTensor",
)  # fmt: skip
WITH_NUMBER: dict[str, Function] = {
    "BitwiseAndScalar": torch.bitwise_and, "BitwiseOrScalar": torch.bitwise_or, "BitwiseXorScalar": torch.bitwise_xor,
    "ClampMax": torch.clamp_max, "ClampMin": torch.clamp_min, "Divs": torch.div, "EqScalar": torch.eq,
    "FloorDivides": torch.floor_divide, "FmodScalar": torch.fmod, "GeScalar": torch.ge, "GtScalar": torch.gt,
    "LeScalar": torch.le, "LeftShifts": torch.bitwise_left_shift, "LtScalar": torch.lt,
    "Muls": torch.mul, "NeScalar": torch.ne, "PowTensorScalar": torch.pow,
    "RemainderTensorScalar": torch.remainder,
}  # fmt: skip
WITH_NUMBER_IN_PLACE = (
    "BitwiseAndScalar", "BitwiseXorScalar", "ClampMax", "Divs", "EqScalar", "FloorDivides", "FmodScalar", "GeScalar",
    "GtScalar", "LeScalar", "LtScalar", "Muls", "NeScalar", "PowTensorScalar", "RemainderTensorScalar",
)  # fmt: skip


def _declare(name: str, signature: str, function: Function) -> None:
    @aclnn(name, signature)
    def run(*arguments: Any) -> None:
        *inputs, out = arguments
        out.copy_(function(*inputs))


def _declare_in_place(name: str, signature: str, function: Function) -> None:
    @aclnn(name, signature)
    def run(x: Tensor, *more: Any) -> None:
        x.copy_(function(x, *more))


for _name, _function in UNARY.items():
    _declare(f"aclnn{_name}", "T | T", _function)
for _name, _function in BINARY.items():
    _declare(f"aclnn{_name}", "T T | T", _function)
for _name, _function in WITH_NUMBER.items():
    _declare(f"aclnn{_name}", "T S | T", _function)
for _name in UNARY_IN_PLACE:
    _declare_in_place(f"aclnnInplace{_name}", "T", UNARY[_name])
for _name in BINARY_IN_PLACE:
    _declare_in_place(f"aclnnInplace{_name}", "T T", BINARY[_name])
for _name in WITH_NUMBER_IN_PLACE:
    _declare_in_place(f"aclnnInplace{_name}", "T S", WITH_NUMBER[_name])

_MODES = {0: None, 1: "trunc", 2: "floor"}


def _add(x: Tensor, other: Any, alpha: Number) -> Tensor:
    return torch.add(x, other, alpha=alpha)


def _sub(x: Tensor, other: Any, alpha: Number) -> Tensor:
    return torch.sub(x, other, alpha=alpha)


def _rsub(x: Tensor, other: Any, alpha: Number) -> Tensor:
    return torch.rsub(x, other, alpha=alpha)


def _div_mode(x: Tensor, other: Any, mode: int) -> Tensor:
    return torch.div(x, other, rounding_mode=_MODES[mode])


def _addcmul(x: Tensor, a: Tensor, b: Tensor, value: Number) -> Tensor:
    return torch.addcmul(x, a, b, value=value)


def _addcdiv(x: Tensor, a: Tensor, b: Tensor, value: Number) -> Tensor:
    return torch.addcdiv(x, a, b, value=value)


MORE: tuple[tuple[str, str, Function], ...] = (
    ("Add", "T T S", _add),
    ("Adds", "T S S", _add),
    ("Addcdiv", "T T T S", _addcdiv),
    ("Addcmul", "T T T S", _addcmul),
    ("DivMod", "T T i", _div_mode),
    ("DivMods", "T S i", _div_mode),
    ("Lerp", "T T T", torch.lerp),
    ("Lerps", "T T S", torch.lerp),
    ("Sub", "T T S", _sub),
    ("Subs", "T S S", _sub),
)
for _name, _signature, _function in MORE:
    _declare(f"aclnn{_name}", f"{_signature} | T", _function)
    _declare_in_place(f"aclnnInplace{_name}", _signature, _function)
_declare("aclnnRsub", "T T S | T", _rsub)
_declare("aclnnRsubs", "T S S | T", _rsub)
_declare("aclnnClamp", "T S? S? | T", torch.clamp)
_declare("aclnnClampTensor", "T T? T? | T", torch.clamp)
_declare("aclnnSWhere", "T T T | T", torch.where)
_declare("aclnnPowScalarTensor", "S T | T", torch.pow)
_declare("aclnnRemainderScalarTensor", "S T | T", torch.remainder)
_declare("aclnnSoftplus", "T S S | T", F.softplus)
_declare("aclnnThreshold", "T S S | T", F.threshold)


@aclnn("aclnnGelu", "T | T")
def gelu(x: Tensor, out: Tensor) -> None:
    out.copy_(F.gelu(x))


@aclnn("aclnnGeluV2", "T l | T")
def gelu_v2(x: Tensor, approximate: int, out: Tensor) -> None:
    out.copy_(F.gelu(x, approximate=("none", "tanh")[approximate]))


@aclnn("aclnnNanToNum", "T f f f | T")
def nan_to_num(x: Tensor, nan: float, positive: float, negative: float, out: Tensor) -> None:
    out.copy_(torch.nan_to_num(x, nan, positive, negative))


@aclnn("aclnnIsClose", "T T d d b | T")
def isclose(x: Tensor, other: Tensor, relative: float, absolute: float, equal_nan: bool, out: Tensor) -> None:
    out.copy_(torch.isclose(x, other, relative, absolute, equal_nan))


@aclnn("aclnnEqual", "T T | T")
def equal(x: Tensor, other: Tensor, out: Tensor) -> None:
    out.fill_(torch.equal(x, other))
