"""Runtimes: the host's, and one for every torch device that has streams and events."""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch

from deepport.backend import Event, Memory
from deepport.errors import BackendUnavailable
from deepport.probing import printable
from deepport.record import HostEvent

_M_MMAP_THRESHOLD = -3
"""Of glibc's mallopt: blocks of so many bytes are the system's, and go back to it when they are freed."""

_RETURNED, _MOST = 1 << 20, 32 << 20
"""Its values while memory is measured, and after: the most that it rises to by itself, by what has been freed."""


@contextmanager
def giving_back() -> Iterator[None]:
    """The memory in use, of which a plan is: glibc would keep what a quantisation frees, and fill it with what comes later."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda *given: None)
    mallopt(_M_MMAP_THRESHOLD, _RETURNED)
    try:
        yield
    finally:
        mallopt(_M_MMAP_THRESHOLD, _MOST)


class HostRuntime:
    """The CPU: work is done when the call returns, and memory is the process's."""

    asynchronous = False

    def synchronize(self) -> None:
        """Nothing is ever outstanding."""

    def stream(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def event(self) -> Event:
        return HostEvent()

    def memory(self) -> Memory:
        machine, process = _table("/proc/meminfo"), _table("/proc/self/status")
        free = machine["MemAvailable"]
        # getrusage's peak begins with what the process held that forked this one; but some sandboxes' /proc have no other.
        peak = process.get("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return Memory(process["VmRSS"], peak, min(free, _limit(free)), machine["MemTotal"])

    def reset_peak(self) -> None:
        """Of the whole process, once the allocator has given back what it holds in vain; not where the system refuses."""
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc's
            trim(0)
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def _table(path: str) -> dict[str, int]:
    """The `name: N kB` lines of a file, in bytes."""
    lines = (line.split() for line in Path(path).read_text().splitlines())
    return {
        name.rstrip(":"): int(size) * 1024 for name, size, *unit in (w for w in lines if len(w) > 1) if unit == ["kB"]
    }


def _limit(otherwise: int) -> int:
    """What a container's memory limit (cgroup v2) leaves, where there is one."""
    root = Path("/sys/fs/cgroup")
    try:
        limit, used = ((root / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return otherwise if limit == "max" else int(limit) - int(used)
    except (OSError, ValueError):
        return otherwise


def _set(variable: str) -> bool:
    """Whether the environment has it: `NAME=1`."""
    name, _, value = variable.partition("=")
    return os.environ.get(name) == value


def current(device_type: str, index: int = 0) -> torch.device:
    """A device, to which streams, events, memory and kernels belong from here on where they name none."""
    if device_type == "cpu":
        return torch.device(device_type)
    device = torch.device(device_type, index)
    torch.get_device_module(device).set_device(index)
    return device


class _TorchEvent:
    def __init__(self, module: Any) -> None:
        self._event = module.Event(enable_timing=True)

    def record(self) -> None:
        self._event.record()

    def wait(self) -> None:
        self._event.wait()

    def seconds_since(self, earlier: _TorchEvent) -> float:
        self._event.synchronize()
        return float(earlier._event.elapsed_time(self._event)) / 1e3


class TorchRuntime:
    """A torch device type with streams and events: cuda (also under ROCm), npu; BackendUnavailable where none opens.

    `blocking` is the vendor's environment variable, with its value, under which every call waits for the device.
    """

    asynchronous = True

    def __init__(self, device_type: str, blocking: str = "") -> None:
        self.blocking = "" if _set(blocking) else blocking
        self._module: Any = torch.get_device_module(device_type)
        try:
            self._module.init()
        except (AssertionError, RuntimeError) as error:  # torch asserts that it was built for the device
            raise BackendUnavailable(f"torch cannot open a {device_type} device: {printable(str(error))}") from error

    def synchronize(self) -> None:
        self._module.synchronize()

    def stream(self) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self._module.stream(self._module.Stream())
        return context

    def event(self) -> Event:
        return _TorchEvent(self._module)

    def memory(self) -> Memory:
        free, total = self._module.mem_get_info()
        return Memory(self._module.memory_allocated(), self._module.max_memory_allocated(), free, total)

    def reset_peak(self) -> None:
        self._module.reset_peak_memory_stats()
