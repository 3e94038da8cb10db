"""`deepport doctor`: whether a run would work on a device, found out by looking and then by trying.

All of it happens in a child process: what a driver's library does to it, a crash or a hang, is one more finding. The child
tells each finding as it comes, and before each step which one it is. A backend says more than its probe by an optional
`diagnose() -> Iterable[Finding]`, which imports no torch; without it, its doctor says what its probe says.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict
from multiprocessing.connection import Connection, Pipe
from typing import IO, TYPE_CHECKING, Any

from deepport import backend, child
from deepport.backend import Backend, Probe, Started
from deepport.errors import BackendUnavailable, DeepportError
from deepport.finding import Finding, ok, unknown, wrong

if TYPE_CHECKING:
    from deepport.conformance.result import Report

SECONDS = 120.0
"""For importing torch and a vendor's package from a slow disk, opening a device, and compiling its first operator."""

_DONE = "done"

_BUSY = "end what uses the device and try again; a device that still does not answer has to be reset by its driver"
_FULL = "end what uses its memory"
_REPORT = (
    "what torch, the toolkit and the driver say of each other above has to fit; else report this line to the vendor"
)
_LACKING = "it opens and cannot compute: install the toolkit's operators for this chip, or a torch that is built for it"


def examine(name: str, index: int, seconds: float = SECONDS) -> Generator[Finding]:
    """What a doctor finds, as it is found. A run works where none of it is `fatal`. Takes `seconds` at most."""
    ours, theirs = Pipe(duplex=False)
    with ours, tempfile.TemporaryFile() as output:
        process = _child(theirs, output, name, index)
        theirs.close()
        try:
            yield from _told(ours, process, output, seconds)
        finally:
            child.end(process)


def _child(theirs: Connection, output: IO[bytes], name: str, index: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "deepport.doctor", str(theirs.fileno()), name, str(index)]
    return subprocess.Popen(
        command,
        env=child.environment(),
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def _told(ours: Connection, process: subprocess.Popen[bytes], output: IO[bytes], seconds: float) -> Iterator[Finding]:
    """The child's findings; where it ends before it is done, that."""
    step, deadline = "child", time.monotonic() + seconds
    while step != _DONE:
        try:
            if not ours.poll(max(deadline - time.monotonic(), 0.0)):
                ended = "its process was ended" if child.end(process) else "its process cannot even be ended"
                yield wrong(step, f"no answer in {seconds:.0f} s; {ended}", _BUSY)
                return
            message = json.loads(ours.recv_bytes())
        except (EOFError, OSError):
            yield wrong(step, child.obituary(process, output), _REPORT)
            return
        if isinstance(message, str):
            step = message
        else:
            yield Finding(**message)


# The child


def look(name: str, index: int) -> Iterator[Finding | str]:
    """What is found, and before each step its name, for whoever survives it."""
    yield "backend"
    try:
        found = backend.get(name)
        probe = found.probe()
    except DeepportError as error:
        yield wrong("backend", str(error), "name an installed backend (`deepport backends` lists them), or install it")
        return
    except Exception as error:  # a plugin's probe may raise anything
        yield wrong("backend", f"its probe failed: {_named(error)}", f"this is for the author of the {name} backend")
        return
    yield from _diagnosed(found, probe)
    yield _record(name, probe)
    if probe.simulator:
        yield ok("simulator", f"{probe.simulator} stands in for the device: what runs here is evidence of no chip")
    yield (devices := _devices(probe, index))
    if devices.state == "ok":
        yield from _tried(name, index)


def _diagnosed(found: Backend, probe: Probe) -> Iterator[Finding | str]:
    yield "diagnose"
    diagnose: Callable[[], Any] | None = getattr(found, "diagnose", None)
    if diagnose is None:
        yield from (ok(what, text) for what, text in probe.versions.items())
        return
    try:
        for finding in diagnose():
            if not isinstance(finding, Finding):
                raise TypeError(f"it gave a {type(finding).__name__}, which is no Finding")
            yield finding
    except Exception as error:
        yield unknown("diagnose", f"the {found.name} backend's own checks failed: {_named(error)}")


def _record(name: str, probe: Probe) -> Finding:
    """What the last conformance run of this machine says of the backend, with these versions."""
    from deepport.conformance import store
    from deepport.conformance.verdict import verdict

    run = f"deepport conform --device {name} --profile bring-up"
    try:
        kept = store.last(name)
    except (DeepportError, OSError) as error:
        return unknown("conformance", str(error), run)
    if kept is None:
        return unknown("conformance", f"nothing was recorded of {name} on this machine", run)
    path, last = kept
    if changed := _changed(last, name, probe):
        return unknown("conformance", f"the last record is of something else: {', '.join(changed)}", run)
    said = verdict(last)
    if not said.ok:
        return wrong(
            "conformance", said.headline, f"deepport report show {path}, then deepport repro of what fails", advice=True
        )
    return ok("conformance", f"{said.headline}; {last.created}")


def _changed(report: Report, name: str, probe: Probe) -> list[str]:
    """In what the machine that a report is of differs from this one."""
    then = report.environment
    found = [
        f"{what} was {then.get(f'{name} {what}', 'absent')} and is {now}"
        for what, now in probe.versions.items()
        if then.get(f"{name} {what}") != now
    ]
    chips = [d.name for d in probe.devices]
    return found if report.device.name in chips else [*found, f"the device was {report.device.name}"]


def _devices(probe: Probe, index: int) -> Finding:
    """What `deepport run` would say of the device."""
    if not probe.devices:
        what, _, fix = (probe.reason or "the probe finds none and gives no reason").partition("; ")
        return wrong("devices", what, fix or what)
    if index >= len(probe.devices):
        last = len(probe.devices) - 1
        return wrong("devices", f"there is no device {index}", f"the last is {last}; check which are made visible")
    there = probe.devices[index]
    facts = ", ".join(filter(None, (there.architecture, f"{there.memory / 1e9:.0f} GB" if there.memory else "")))
    return ok("devices", f"{len(probe.devices)} there; {index} is {there.name}{f' ({facts})' if facts else ''}")


def _tried(name: str, index: int) -> Iterator[Finding | str]:
    """Open the device, ask for its memory, and compute."""
    yield "start"
    began = time.perf_counter()
    try:
        started = backend.start(name)
    except BackendUnavailable as error:
        yield wrong("start", str(error), _REPORT)
        return
    except Exception as error:
        yield wrong("start", _named(error), _REPORT)
        return
    kernels = sum(map(len, started.kernels.values()))
    yield ok("start", f"opened in {time.perf_counter() - began:.1f} s, with {kernels} kernels")
    for step, attempt, fix in (("memory", _memory, _REPORT), ("compute", _computed, _LACKING)):
        yield step
        try:
            yield attempt(started, index)
        except Exception as error:  # what torch and vendors raise has no common type
            full = type(error).__name__ == "OutOfMemoryError"
            yield wrong(step, _named(error), _FULL if full else fix, advice=step == "memory")


def _computed(started: Started, index: int) -> Finding:
    """A product of small integers, which every format and order of summation gives exactly."""
    import torch

    a = torch.arange(64 * 64, dtype=torch.float32).reshape(64, 64) % 7
    there = a.to(f"{started.device_type}:{index}")
    if not torch.equal((there @ there.T).cpu(), a @ a.T):
        return wrong("compute", "a 64 x 64 product of small integers is wrong", "the device or its driver is broken")
    return ok("compute", "a 64 x 64 product of small integers is right")


def _memory(started: Started, index: int) -> Finding:
    from deepport.runtime import current

    current(started.device_type, index)
    found = started.runtime.memory()
    text = f"{found.free / 1e9:.3g} of {found.total / 1e9:.3g} GB are free"
    if found.free < found.total / 10:
        return wrong("memory", text, _FULL, advice=True)
    return ok("memory", text)


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _main(descriptor: int, name: str, index: int) -> None:
    with Connection(descriptor) as parent:
        for message in look(name, index):
            parent.send_bytes(json.dumps(asdict(message) if isinstance(message, Finding) else message).encode())
        parent.send_bytes(json.dumps(_DONE).encode())


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
