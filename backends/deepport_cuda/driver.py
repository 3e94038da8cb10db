"""What NVIDIA's driver says, asked through ctypes (CUDA driver API, libcuda.so.1)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deepport.backend import Device
from deepport.probing import printable

_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_MOST_DEVICES = 1024


@dataclass(frozen=True)
class Driver:
    """The newest CUDA version the driver can run, `(major, minor)`, and the devices this process may use."""

    cuda: tuple[int, int]
    devices: tuple[Device, ...]


class DriverError(Exception):
    """The driver is there and refuses; the text is its own."""


def query(load: Callable[[str], Any]) -> Driver:
    """Ask the driver; OSError where the library cannot be loaded, DriverError where a call fails.

    `cuInit` creates no context and allocates nothing on a device.
    """
    library = load("libcuda.so.1")
    try:
        return _ask(library)
    except AttributeError as error:
        raise DriverError(f"libcuda.so.1 lacks a function: {error}") from error


def _ask(library: Any) -> Driver:
    _check(library, library.cuInit(0))
    version, count = ctypes.c_int(), ctypes.c_int()
    _check(library, library.cuDriverGetVersion(ctypes.byref(version)))
    _check(library, library.cuDeviceGetCount(ctypes.byref(count)))
    devices = tuple(_device(library, index) for index in range(min(count.value, _MOST_DEVICES)))
    return Driver((version.value // 1000, version.value % 1000 // 10), devices)


def _device(library: Any, index: int) -> Device:
    handle, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
    _check(library, library.cuDeviceGet(ctypes.byref(handle), index))
    _check(library, library.cuDeviceGetName(name, len(name), handle))
    _check(library, library.cuDeviceTotalMem_v2(ctypes.byref(memory), handle))
    major, minor = (_attribute(library, attribute, handle) for attribute in _CAPABILITY)
    text = printable(name.value.decode(errors="replace"))
    return Device(text, f"sm_{major}{minor}", memory.value, formats(major, minor))


def _attribute(library: Any, attribute: int, handle: ctypes.c_int) -> int:
    value = ctypes.c_int()
    _check(library, library.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle))
    return value.value


def formats(major: int, minor: int) -> tuple[str, ...]:
    """Number formats with matrix instructions, by compute capability (PTX ISA, `mma` and `tcgen05.mma`)."""
    since = (((7, 5), "int8"), ((8, 0), "bfloat16"), ((8, 9), "fp8_e4m3"), ((10, 0), "mxfp4"))
    return ("float32", *(name for capability, name in since if (major, minor) >= capability))


def _check(library: Any, code: int) -> None:
    if code:
        text = ctypes.c_char_p()
        library.cuGetErrorString(code, ctypes.byref(text))
        raise DriverError(f"{printable((text.value or b'unknown error').decode(errors='replace'))} (CUDA error {code})")
