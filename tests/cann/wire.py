"""What an aclnn call says: registers and stack into tensors and numbers, by the operator's signature.

A signature has a letter for each argument, in the order of the vendor's declaration, as `"T T? d | T"`:

    T aclTensor*    I aclIntArray*     L aclTensorList*    l int64_t         d double    s char*
    S aclScalar*    F aclFloatArray*   Z aclScalarList*    i int32_t, enum   f float
                    B aclBoolArray*                        y int8_t          b bool

`?` after a handle or an `s`: it may be null. `|` stands before the outputs, for the reader. The two arguments that every
operator ends with (workspaceSize, executor) are not written. A call that does not fit raises Drift, which shows both sides;
numbers carry no type, so a number in the place of another is not noticed.

native/trampoline.S says where x86-64 keeps arguments; native/handles.cpp has the layouts.
"""

from __future__ import annotations

import ctypes as C
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

HANDLES = {"T": 1, "S": 2, "I": 3, "F": 4, "B": 5, "L": 6, "Z": 7}
NAMES = {
    "T": "aclTensor*", "S": "aclScalar*", "I": "aclIntArray*", "F": "aclFloatArray*", "B": "aclBoolArray*",
    "L": "aclTensorList*", "Z": "aclScalarList*", "l": "int64_t", "i": "int32_t", "y": "int8_t", "b": "bool",
    "d": "double", "f": "float", "s": "char*",
}  # fmt: skip
_KINDS = {number: letter for letter, number in HANDLES.items()}
_WIDTHS: dict[str, Any] = {"l": C.c_int64, "i": C.c_int32, "y": C.c_int8, "b": C.c_bool}
_ITEMS = {"I": C.c_int64, "F": C.c_float, "B": C.c_bool, "L": C.c_void_p, "Z": C.c_void_p}

DTYPES = {
    0: torch.float32, 1: torch.float16, 2: torch.int8, 3: torch.int32, 4: torch.uint8, 6: torch.int16, 7: torch.uint16,
    8: torch.uint32, 9: torch.int64, 10: torch.uint64, 11: torch.float64, 12: torch.bool, 16: torch.complex64,
    17: torch.complex128, 27: torch.bfloat16, 34: torch.uint8, 35: torch.float8_e5m2, 36: torch.float8_e4m3fn,
    37: torch.float8_e8m0fnu, 40: torch.uint8, 41: torch.uint8,
}  # fmt: skip
"""aclDataType. What torch has no name for comes as bytes (34 hifloat8; 40, 41 float4): `tensor.acl.type` has the number."""

FRAME = 4096
"""Bytes of the caller's stack in which its variables are: torch_npu's lie at 160 to 272."""

opapi = C.CDLL("libopapi.so")
opapi.deepport_cann_kind.argtypes = [C.c_void_p]
opapi.deepport_cann_readable.argtypes = [C.c_void_p, C.c_uint64]
acl = C.CDLL("libascendcl.so")
acl.deepport_cann_memory_behind.argtypes = [C.c_void_p]
acl.deepport_cann_memory_behind.restype = C.c_uint64


class Drift(Exception):
    """A call does not fit the signature that is written for its operator."""


class NotOnDevice(Exception):
    """A tensor's bytes are not in device memory, or pass the end of their allocation."""


class _Tensor(C.Structure):
    _fields_ = (
        ("type", C.c_int32), ("format", C.c_int32), ("rank", C.c_int64), ("sizes", C.c_int64 * 16),
        ("strides", C.c_int64 * 16), ("offset", C.c_int64), ("data", C.c_void_p),
    )  # fmt: skip


class _Scalar(C.Structure):
    _fields_ = (("type", C.c_int32), ("unused", C.c_int32), ("value", C.c_uint8 * 16))


class _Array(C.Structure):
    _fields_ = (("count", C.c_uint64), ("items", C.c_void_p))


@dataclass(frozen=True)
class Acl:
    """What CANN knows of a tensor beside its values: the handle's address, aclDataType, aclFormat."""

    address: int
    type: int
    format: int


@dataclass(frozen=True)
class Handle:
    letter: str
    address: int


@dataclass(frozen=True)
class Argument:
    letter: str
    optional: bool


@cache
def signature(text: str) -> tuple[Argument, ...]:
    """The arguments that a signature names. ValueError for letters that there are not."""
    found: list[Argument] = []
    for letter in text.replace(" ", "").replace("|", ""):
        if letter == "?" and found and found[-1].letter in (*HANDLES, "s"):
            found[-1] = Argument(found[-1].letter, True)
        elif letter in NAMES:
            found.append(Argument(letter, False))
        else:
            raise ValueError(f"signature {text!r}: {letter!r} is not one of {' '.join(NAMES)}")
    return tuple(found)


class Call:
    """The words of a call, taken one after the other."""

    def __init__(self, integers: Any, floats: Any, stack: Any) -> None:
        self._integers, self._floats, self._stack = integers, floats, stack
        self.frame = C.cast(stack, C.c_void_p).value or 0
        self._taken = {"integers": 0, "floats": 0, "stack": 0}

    def word(self) -> int:
        return self._next("integers", self._integers, 6)

    def number(self, letter: str) -> float:
        raw = self._next("floats", self._floats, 8).to_bytes(8, "little")
        return float(struct.unpack("<d", raw)[0] if letter == "d" else struct.unpack("<f", raw[:4])[0])

    def _next(self, name: str, registers: Any, count: int) -> int:
        at = self._taken[name]
        if at < count:
            self._taken[name] += 1
            return int(registers[at])
        self._taken["stack"] += 1
        return int(self._stack[self._taken["stack"] - 1])

    def shown(self, count: int) -> str:
        """The first words as they are, handles by their kind: what a reader of a Drift wants to see."""
        fresh = Call(self._integers, self._floats, self._stack)
        floats = " ".join(f"{fresh.number('d'):g}" for _ in range(4))
        return " ".join(_what(fresh.word()) for _ in range(count)) + f"; floating-point registers: {floats}"


def _what(word: int) -> str:
    if letter := kind(word):
        return letter
    return "pointer" if word > 4096 and readable(word, 1) else str(C.c_int64(word).value)


def kind(address: int) -> str:
    """The letter of the handle at an address, "" where there is none."""
    return _KINDS.get(opapi.deepport_cann_kind(address), "")


def readable(address: int, size: int) -> bool:
    return bool(opapi.deepport_cann_readable(address, size))


def arguments(text: str, call: Call) -> tuple[list[Any], int, int]:
    """A call's arguments, handles unread, and where the workspace's size and the executor are to be written."""
    wanted = signature(text)
    found = [_argument(i, argument, text, call) for i, argument in enumerate(wanted, 1)]
    workspace, executor = call.word(), call.word()
    for name, address in (("uint64_t* workspaceSize", workspace), ("aclOpExecutor** executor", executor)):
        if not _is_result(address, call.frame):
            raise Drift(f"expected {name} after {text!r}, but {_what(address)} came; {_came(wanted, call)}")
    return found, workspace, executor


def _is_result(address: int, frame: int) -> bool:
    """Whether a call's result goes there: torch_npu has both as variables of the caller, at 0 before the call.

    Any other address is another argument's, or what happens to lie on the stack behind the last argument, which may well be
    the address of some zeros.
    """
    return 0 <= address - frame < FRAME and readable(address, 8) and not C.c_uint64.from_address(address).value


def _argument(place: int, argument: Argument, text: str, call: Call) -> Any:
    letter = argument.letter
    if letter in "df":
        return call.number(letter)
    word = call.word()
    if problem := _problem(argument, word):
        wanted = f"argument {place} of {text!r} should be {NAMES[letter]}, but {problem}"
        raise Drift(f"{wanted}; {_came(signature(text), call)}")
    if letter in HANDLES:
        return Handle(letter, word)
    if letter == "s":
        return C.string_at(word).decode() if word else None
    return _WIDTHS[letter](word & (2 ** (8 * C.sizeof(_WIDTHS[letter])) - 1)).value


def _problem(argument: Argument, word: int) -> str:
    got = kind(word)
    if argument.letter in HANDLES:
        if not word:
            return "" if argument.optional else "null came"
        return "" if got == argument.letter else f"{_what(word)} came"
    if got:
        return f"{NAMES[got]} came"
    if argument.letter == "s" and not (argument.optional and not word) and not readable(word, 1):
        return f"{C.c_int64(word).value} came"
    return ""


def _came(wanted: Sequence[Argument], call: Call) -> str:
    return f"the call began with: {call.shown(len(wanted) + 4)}"


def value(argument: Any) -> Any:
    """An argument as Python sees it: a handle is read, tensors are views of the device's memory."""
    if not isinstance(argument, Handle):
        return argument
    if not argument.address:
        return None
    if argument.letter == "T":
        return tensor(argument.address)
    if argument.letter == "S":
        return scalar(argument.address)
    array = _Array.from_address(argument.address)
    items = list((_ITEMS[argument.letter] * array.count).from_address(array.items)) if array.count else []
    read = {"L": tensor, "Z": scalar}.get(argument.letter)
    return [read(item) for item in items] if read else items


def tensor(address: int) -> torch.Tensor:
    """A view of the device's memory with the handle's sizes and strides. Raises NotOnDevice."""
    handle = _Tensor.from_address(address)
    dtype = DTYPES[handle.type]
    sizes, strides = list(handle.sizes[: handle.rank]), list(handle.strides[: handle.rank])
    begin = (handle.data or 0) + handle.offset * dtype.itemsize
    if math.prod(sizes) == 0:
        view = torch.empty(sizes, dtype=dtype)
    else:
        size = (1 + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))) * dtype.itemsize
        if (room := acl.deepport_cann_memory_behind(begin)) < size:
            where = f"only {room} of them are in its allocation" if room else "they are not in device memory"
            raise NotOnDevice(f"a tensor {dtype} {tuple(sizes)} has {size} bytes at {begin:#x}: {where}")
        raw = torch.frombuffer((C.c_uint8 * size).from_address(begin), dtype=torch.uint8)
        view = raw.view(dtype).as_strided(sizes, strides)
    view.acl = Acl(address, handle.type, handle.format)  # type: ignore[attr-defined]
    return view


def set_sizes(output: torch.Tensor, sizes: Sequence[int]) -> None:
    """Tell the caller how large an output turned out: what aclGetViewShape then says."""
    handle = _Tensor.from_address(output.acl.address)  # type: ignore[attr-defined]
    handle.rank = len(sizes)
    handle.sizes[: len(sizes)] = list(sizes)


def scalar(address: int) -> bool | int | float | complex:
    handle = _Scalar.from_address(address)
    raw = torch.frombuffer(bytearray(handle.value), dtype=torch.uint8)
    found: bool | int | float | complex = raw.view(DTYPES[handle.type])[0].item()
    return found
