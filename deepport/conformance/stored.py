"""A call's arguments as JSON and bytes: every dtype, stride and scalar comes back as it was.

Tensors are stored as the bytes of their elements, with dtype, shape and stride beside them: formats for tensor files do not know
every dtype (float8_e8m0fnu, float8_e4m3fnuz), and none keeps a stride. What is read is checked before memory is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr
from torch import Tensor

from deepport.conformance.gates import bits
from deepport.errors import BadInput

LARGEST = 1 << 31
"""Bytes that the tensors of one bundle may take in memory, gaps between their rows included."""

DTYPES: dict[str, torch.dtype] = {
    str(t).removeprefix("torch."): t
    for t in (
        torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e4m3fnuz,
        torch.float8_e5m2, torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
        torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
    )
}  # fmt: skip

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

_Size = Annotated[int, Field(ge=0, lt=1 << 40, strict=True)]
_Sizes = Annotated[tuple[_Size, ...], Field(max_length=16)]


class Frozen(BaseModel):
    """JSON of which every field is known."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class StoredTensor(Frozen):
    """`name` is the tensor's in the file of tensors."""

    kind: Literal["tensor"] = "tensor"
    name: str
    dtype: str
    shape: _Sizes
    stride: _Sizes

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def reach(self) -> int:
        """Elements of memory from the first to the last, gaps included."""
        return sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True)) + 1 if self.elements else 0


class StoredDtype(Frozen):
    kind: Literal["dtype"] = "dtype"
    name: str


class StoredFloat(Frozen):
    kind: Literal["float"] = "float"
    value: float


class StoredScalar(Frozen):
    kind: Literal["scalar"] = "scalar"
    value: StrictBool | StrictInt | StrictStr | None


class StoredList(Frozen):
    kind: Literal["list"] = "list"
    items: tuple[Stored, ...]


Stored = Annotated[StoredTensor | StoredDtype | StoredFloat | StoredScalar | StoredList, Field(discriminator="kind")]
StoredList.model_rebuild()


def put(name: str, value: Any, tensors: dict[str, Tensor]) -> Any:
    """What a value is in JSON; the bytes of tensors go to `tensors`, under names that begin with `name`."""
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        if dtype not in DTYPES:
            raise BadInput(f"{name}: a bundle cannot hold {dtype}")
        stored = StoredTensor(name=name, dtype=dtype, shape=tuple(value.shape), stride=tuple(value.stride()))
        tensors[name] = bits(value.cpu())
        return stored
    if isinstance(value, (list, tuple)):
        return StoredList(items=tuple(put(f"{name}.{i}", v, tensors) for i, v in enumerate(value)))
    if isinstance(value, torch.dtype):
        return StoredDtype(name=str(value).removeprefix("torch."))
    return StoredFloat(value=value) if isinstance(value, float) else StoredScalar(value=value)


def listed(stored: Any) -> list[StoredTensor]:
    """The tensors in a stored value."""
    if isinstance(stored, StoredList):
        return [t for item in stored.items for t in listed(item)]
    return [stored] if isinstance(stored, StoredTensor) else []


def check(stored: list[StoredTensor], tensors: Mapping[str, Tensor] | None = None) -> None:
    """Refuse (BadInput) what cannot be, or would take too much memory; with `tensors`, also bytes that do not fit."""
    for t in stored:
        if t.dtype not in DTYPES:
            raise BadInput(f"{t.name}: no dtype is called {t.dtype!r}")
        if len(t.shape) != len(t.stride):
            raise BadInput(f"{t.name}: shape {t.shape} has not as many dimensions as stride {t.stride}")
    total = sum(t.reach * DTYPES[t.dtype].itemsize for t in stored)
    if total > LARGEST:
        raise BadInput(f"the tensors take {total / 1e9:.3g} GB; a bundle holds at most {LARGEST / 1e9:.3g} GB")
    for t in stored if tensors is not None else ():
        _check_bytes(t, tensors or {})


def _check_bytes(stored: StoredTensor, tensors: Mapping[str, Tensor]) -> None:
    found = tensors.get(stored.name)
    if found is None:
        raise BadInput(f"the tensor {stored.name!r} is missing")
    expected = stored.elements * DTYPES[stored.dtype].itemsize
    if found.dtype != torch.uint8 or found.dim() != 1 or len(found) != expected:
        raise BadInput(f"the tensor {stored.name!r} is {tuple(found.shape)} {found.dtype}, not {expected} bytes")


def get(stored: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value; `check` has accepted its tensors."""
    if isinstance(stored, StoredTensor):
        return _restored(stored, tensors[stored.name])
    if isinstance(stored, StoredList):
        return [get(item, tensors) for item in stored.items]
    if isinstance(stored, StoredDtype):
        if stored.name not in DTYPES:
            raise BadInput(f"no dtype is called {stored.name!r}")
        return DTYPES[stored.name]
    return stored.value


def _restored(stored: StoredTensor, data: Tensor) -> Tensor:
    dtype, shape, stride = DTYPES[stored.dtype], stored.shape, stored.stride
    if not stored.elements:
        return torch.empty_strided(shape, stride, dtype=dtype)
    whole = _BITS[dtype.itemsize]
    elements = data.clone().view(whole)  # a clone, for a file's bytes need not be aligned
    if stride != _contiguous(shape):
        # By index, which serves gaps, and rows that share memory, alike; of integers, for float8 has none.
        where = torch.zeros((), dtype=torch.int64)
        for size, step in zip(shape, stride, strict=True):
            where = where[..., None] + torch.arange(size) * step
        memory = torch.zeros(stored.reach, dtype=whole)
        memory[where.flatten()] = elements
        elements = memory
    return elements.view(dtype).as_strided(shape, stride)


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))
