"""Backends: which devices there are, and who serves them.

A backend is an object that a package publishes under the entry-point group `deepport.backends`:

    [project.entry-points."deepport.backends"]
    acme = "deepport_acme:backend"

Nothing here imports torch or a vendor package: listing and probing backends is fast and works on any machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Protocol

from deepport.errors import BackendUnavailable

if TYPE_CHECKING:
    from deepport.op import Kernel

GROUP = "deepport.backends"


@dataclass(frozen=True)
class Device:
    """One device as its probe found it; `memory` in bytes, 0 where only the started driver could tell."""

    name: str
    architecture: str = ""
    memory: int = 0
    formats: tuple[str, ...] = ()


@dataclass(frozen=True)
class Probe:
    """What is there. Without devices, `reason` says why in one line, with what to install or do."""

    devices: tuple[Device, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Memory:
    """Bytes on a device: held by tensors now, at the peak so far, and free and installed in all."""

    allocated: int
    peak: int
    free: int
    total: int


class Event(Protocol):
    """A point in a stream's work."""

    def record(self) -> None: ...

    def wait(self) -> None:
        """Let the current stream go on only after this point."""

    def seconds_since(self, earlier: Any) -> float:
        """Device time between two recorded events; waits for this one."""


class Runtime(Protocol):
    """What deepport asks of a started device beside its operators."""

    asynchronous: bool

    def synchronize(self) -> None: ...

    def stream(self) -> AbstractContextManager[Any]:
        """A side stream: work issued inside the context runs beside the current stream."""

    def event(self) -> Event: ...

    def memory(self) -> Memory: ...

    def reset_peak(self) -> None: ...


class Backend(Protocol):
    """One kind of device.

    Attributes:
        name: what `--device` takes, and the key of the backend's kernels.
        device_type: the torch device type of the tensors it serves.
        simulates: the name of the backend it stands in for, or "". A simulation is chosen by name only.
    """

    name: str
    device_type: str
    simulates: str

    def probe(self) -> Probe:
        """What is there, found without importing a vendor package: files, dlopen, driver queries."""

    def start(self) -> Runtime:
        """Import what the device needs and open it; BackendUnavailable where that fails."""

    def kernels(self) -> Sequence[Kernel]:
        """The kernels, in the order in which they are asked; called after `start`."""


class Started:
    """A backend whose device is open and whose kernels have been accepted."""

    def __init__(self, backend: Backend) -> None:
        self.name, self.device_type = backend.name, backend.device_type
        self.runtime = backend.start()
        self.kernels = accepted(backend.name, backend.kernels())


def accepted(backend: str, kernels: Sequence[Kernel]) -> dict[str, list[Kernel]]:
    """The kernels by operator; refuses unknown operators, duplicates, wrong schemas and undeclared mutations."""
    import deepport.ops  # noqa: F401  (declares the operators)
    from deepport.op import operators

    found: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        if kernel.operator not in operators:
            raise TypeError(
                f"no operator is called {kernel.operator!r}, for which {backend} has the kernel {kernel.name!r}"
            )
        if any(k.name == kernel.name for k in found.get(kernel.operator, [])):
            raise ValueError(f"{kernel.operator}: the {backend} backend already has a kernel called {kernel.name!r}")
        operators[kernel.operator].check(kernel, backend)
        found.setdefault(kernel.operator, []).append(kernel)
    return found


@dataclass(frozen=True)
class Listing:
    """A row of `deepport backends`."""

    name: str
    package: str
    device_type: str
    simulates: str
    probe: Probe


@cache
def _entries() -> dict[str, EntryPoint]:
    return {e.name: e for e in sorted(entry_points(group=GROUP), key=lambda e: e.name)}


@cache
def get(name: str) -> Backend:
    """The installed backend called `name`, not started."""
    if name not in _entries():
        raise BackendUnavailable(f"no backend is called {name!r}; installed: {', '.join(_entries()) or 'none'}")
    try:
        found: Backend = _entries()[name].load()
    except ImportError as error:
        raise BackendUnavailable(f"the {name} backend is installed but cannot be imported: {error}") from error
    if found.name != name:
        raise TypeError(
            f"the entry point {name!r} of the group {GROUP} publishes a backend that calls itself {found.name!r}"
        )
    return found


@cache
def start(name: str) -> Started:
    """The backend called `name` with its device open; BackendUnavailable, with the reason, where there is none."""
    backend = get(name)
    if not (probe := backend.probe()).devices:
        raise BackendUnavailable(f"{name}: {probe.reason}")
    return Started(backend)


def backends() -> list[Listing]:
    """Every installed backend with what its probe found, or why it found nothing."""
    return [_listing(name, entry) for name, entry in _entries().items()]


def _listing(name: str, entry: EntryPoint) -> Listing:
    package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else ""
    try:
        backend = get(name)
        return Listing(name, package, backend.device_type, backend.simulates, backend.probe())
    except Exception as error:  # a broken plugin must not hide the others
        return Listing(name, package, "", "", Probe(reason=f"{type(error).__name__}: {error}"))


def choose(device: str) -> str:
    """The backend `--device` means: `auto` is the first accelerator that is there, else the CPU."""
    if device != "auto":
        return device.partition(":")[0]
    there = [b for b in backends() if b.probe.devices and not b.simulates]
    return next((b.name for b in there if b.device_type != "cpu"), "cpu")


@cache
def serving(device_type: str) -> Started | None:
    """The backend that serves tensors of a torch device type, or None: then references do."""
    for listing in backends():
        if listing.device_type == device_type and not listing.simulates and listing.probe.devices:
            return start(listing.name)
    return None
