"""Real distributions with a backend in a temporary folder, and this process finding them."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deepport import backend


def write_distribution(folder: Path, name: str, source: str, module: str = "", entry: str = "backend") -> None:
    """Write a distribution that publishes `deepport_<name>:backend` as the backend `name`."""
    module = module or f"deepport_{name}"
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / f"{module}.py").write_text(source)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[deepport.backends]\n{name} = {module}:{entry}\n")
    (info / "RECORD").write_text(f"{module}.py,,\n{info.name}/METADATA,,\n{info.name}/entry_points.txt,,\n")


def forget_backends() -> None:
    """Have this process look again at what is installed."""
    importlib.invalidate_caches()
    for cached in (backend._entries, backend.get, backend.start, backend.serving):
        cached.cache_clear()


def forget_modules(before: set[str]) -> None:
    """Forget the modules of backends that were not there before."""
    for name in set(sys.modules) - before:
        if name.startswith("deepport_") and "." not in name and not hasattr(sys.modules[name], "__path__"):
            del sys.modules[name]


@contextmanager
def installed(folder: Path, **sources: str) -> Iterator[None]:
    """Distributions by the names of their backends, found by this process and those that it starts."""
    modules = set(sys.modules)
    for name, source in sources.items():
        write_distribution(folder, name, source)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        forget_backends()
        yield
    forget_backends()
    forget_modules(modules)


_BACKEND = """
from deepport.backend import Device, Probe
from deepport.gap import Gap


class Backend:
    name, device_type, simulates = {name!r}, "cpu", "cuda"
    gaps = {gaps}

    def probe(self):
        return Probe((Device("Acme One"),), {{"acme": "7"}})

    def start(self):
        from deepport.runtime import HostRuntime
{start}
        return HostRuntime()

    def kernels(self):
        return kernels()


def kernels():
    import torch
    from torch import Tensor
    from deepport import ops
    from deepport.kernel import YES, Kernel, no

    found = []

    def kernel(operator, supports=lambda signature: YES, mutates=()):
        def add(run):
            found.append(Kernel(operator, run.__name__, run, supports, mutates))
            return run
        return add

{kernels}
    return found


backend = Backend()
"""


def backend_source(name: str, kernels: str, *, gaps: str = "()", start: str = "") -> str:
    """A backend on CPU tensors. `kernels`: functions, each decorated `@kernel(operator)` and named as the kernel is."""
    indented = (textwrap.indent(textwrap.dedent(part), " " * n) for part, n in ((kernels, 4), (start, 8)))
    body, opened = indented
    return _BACKEND.format(name=name, gaps=gaps, kernels=body, start=opened)
