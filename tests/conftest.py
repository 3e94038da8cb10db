"""What all tests share: one thread per process, and a real distribution with a backend in a temporary folder."""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deepport import backend

# With pytest-xdist the processes share the cores, and spinning threads would only wait. Nothing above imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

Distribution = Callable[..., Path]


@pytest.fixture
def distribution(tmp_path: Path) -> Distribution:
    """Write a distribution that publishes `deepport_<name>:backend` as the backend `name`; returns its folder."""

    def write(name: str, source: str, module: str = "", entry: str = "backend") -> Path:
        module = module or f"deepport_{name}"
        folder = tmp_path / "site"
        info = folder / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (folder / f"{module}.py").write_text(source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[deepport.backends]\n{name} = {module}:{entry}\n")
        (info / "RECORD").write_text(f"{module}.py,,\n{info.name}/METADATA,,\n{info.name}/entry_points.txt,,\n")
        return folder

    return write


def _forget() -> None:
    importlib.invalidate_caches()
    for cached in (backend._entries, backend.get, backend.start, backend.serving):
        cached.cache_clear()


@pytest.fixture
def install(distribution: Distribution, monkeypatch: pytest.MonkeyPatch) -> Iterator[Distribution]:
    """`distribution`, and this process finds it until the test ends."""
    modules = set(sys.modules)

    def write(name: str, source: str, module: str = "", entry: str = "backend") -> Path:
        folder = distribution(name, source, module, entry)
        if str(folder) not in sys.path:
            monkeypatch.syspath_prepend(folder)
        _forget()
        return folder

    yield write
    monkeypatch.undo()
    _forget()
    for name in set(sys.modules) - modules:
        if name.startswith("deepport_") and "." not in name and not hasattr(sys.modules[name], "__path__"):
            del sys.modules[name]
