"""Backends: which devices there are, and who serves them.

A backend is an object that a package publishes under the entry-point group `deepport.backends`; an installed package is
listed and used without a change here:

    [project.entry-points."deepport.backends"]
    acme = "deepport_acme:backend"

and in `deepport_acme/__init__.py`, where nothing may import torch or the vendor's package:

    class AcmeBackend:
        name = "acme"          # the entry point's name, and what `--device` takes
        device_type = "acme"   # the torch device type of its tensors
        simulates = ""

        def probe(self) -> Probe:
            if not Path("/dev/acme0").exists():
                return Probe(reason="no Acme card: /dev/acme0 does not exist; install its driver")
            return Probe((Device("Acme One", memory=32 << 30, formats=("float32", "bfloat16")),))

        def start(self) -> Runtime:
            import torch_acme   # registers the device type
            from deepport.runtime import TorchRuntime
            return TorchRuntime("acme")

        def kernels(self) -> Sequence[Kernel]:
            return ()          # references serve every operator, on the device; add kernels one by one

    backend = AcmeBackend()

A kernel is `Kernel("rms_norm", "acme", rms_norm, supports)`, where `rms_norm` has the reference's signature, with its
annotations, and `supports` answers YES or no(code, reason) from dtypes, shapes and attributes alone (`deepport.op`).

Nothing here imports torch or a vendor package: listing and probing backends is fast and works on any machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Protocol

from deepport.errors import BackendBroken, BackendUnavailable, DeepportError

if TYPE_CHECKING:
    from deepport.kernel import Kernel

GROUP = "deepport.backends"


@dataclass(frozen=True)
class Device:
    """One device as its probe found it.

    `memory` in bytes, 0 where only the started driver could tell; `formats` are the number formats it computes in.
    """

    name: str
    architecture: str = ""
    memory: int = 0
    formats: tuple[str, ...] = ()


@dataclass(frozen=True)
class Probe:
    """What is there. Without devices, `reason` says why in one line, with what to install or do.

    `simulator` names what stands in for the devices' driver, "" where they are real: what runs there is evidence of no chip.
    """

    devices: tuple[Device, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    simulator: str = ""


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
    """What deepport asks of a started device beside its operators.

    Attributes:
        asynchronous: whether a call may return before its work is done.
        blocking: optional; the environment variable, as NAME=VALUE, under which each call waits for its work, so that an error is
            raised by the call that fails. "" where it is set already. `deepport run` uses it to find out which call that was.
    """

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
        on_paper: optional; `on_paper(chip)` gives one line on what is assumed, and the kernels for a chip that need not be there,
            or raises BadInput and names those that it knows.
        gaps: optional, () by default: what it knows that it cannot do (`deepport.gap.Gap`), for the conformance suite.
        evidence: optional, `(kernel) -> str`: how far a kernel of its own has been tried, where that is not what is said of the
            backend in README's table; "" where it is.
        diagnose: optional, `() -> Iterable[deepport.finding.Finding]`: what `deepport doctor` should look at beside the probe,
            without importing torch; by default what the probe says of versions.
        peaks: optional, `(beyond) -> Iterable[deepport.bench.peak.Peak]`: how `deepport bench` finds out what the device can do
            at most, `beyond` being bytes that none of the host's caches keeps; by default torch's own kernels do.
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
    """The kernels by operator; BackendBroken for unknown operators, duplicates, wrong schemas, undeclared mutations."""
    import deepport.ops  # noqa: F401  (declares the operators)
    from deepport.op import operators

    found: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        if kernel.operator not in operators:
            raise BackendBroken(
                f"no operator is called {kernel.operator!r}, for which {backend} has the kernel {kernel.name!r}"
            )
        if any(k.name == kernel.name for k in found.get(kernel.operator, [])):
            raise BackendBroken(f"{kernel.operator}: the {backend} backend already has a kernel called {kernel.name!r}")
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
def _entries() -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        found.setdefault(entry.name, []).append(entry)
    return found


@cache
def get(name: str) -> Backend:
    """The installed backend called `name`, not started; BackendUnavailable or BackendBroken where it cannot be had."""
    if name not in _entries():
        raise BackendUnavailable(f"no backend is called {name!r}; installed: {', '.join(_entries()) or 'none'}")
    entry, *more = _entries()[name]
    if more:
        packages = ", ".join(_package(e) for e in (entry, *more))
        raise BackendBroken(f"several packages publish a backend called {name!r}: {packages}; uninstall all but one")
    try:
        found: Backend = entry.load()
    except ImportError as error:
        raise BackendUnavailable(f"the {name} backend is installed but cannot be imported: {error}") from error
    except Exception as error:  # a plugin's module may raise anything
        raise BackendBroken(f"the {name} backend cannot be loaded: {type(error).__name__}: {error}") from error
    if missing := [
        a for a in ("name", "device_type", "simulates", "probe", "start", "kernels") if not hasattr(found, a)
    ]:
        raise BackendBroken(f"what the entry point {name!r} of {GROUP} publishes has no {', '.join(missing)}")
    if found.name != name:
        raise BackendBroken(f"the entry point {name!r} of {GROUP} publishes a backend that calls itself {found.name!r}")
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
    return [_listing(name, ", ".join(map(_package, entries))) for name, entries in _entries().items()]


def _listing(name: str, package: str) -> Listing:
    try:
        backend = get(name)
        return Listing(name, package, backend.device_type, backend.simulates, backend.probe())
    except DeepportError as error:
        return Listing(name, package, "", "", Probe(reason=str(error)))
    except Exception as error:  # a broken plugin must not hide the others
        reason = f"the {name} backend's probe failed: {type(error).__name__}: {error}"
        return Listing(name, package, "", "", Probe(reason=reason))


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown package"


def choose(device: str) -> str:
    """The backend `--device` means: `auto` is the first accelerator that is there, none that is simulated, else the CPU."""
    if device != "auto":
        return device.partition(":")[0]
    there = [b for b in backends() if b.probe.devices and not b.simulates and not b.probe.simulator]
    return next((b.name for b in there if b.device_type != "cpu"), "cpu")


@cache
def serving(device_type: str) -> Started | None:
    """The backend that serves tensors of a torch device type, or None: then references do.

    BackendUnavailable where several do: which of them is not for us to guess.
    """
    there = [b.name for b in backends() if b.device_type == device_type and not b.simulates and b.probe.devices]
    if len(there) > 1:
        raise BackendUnavailable(
            f"the backends {', '.join(there)} all serve {device_type} tensors; name one: Session(backend={there[0]!r})"
        )
    return start(there[0]) if there else None
