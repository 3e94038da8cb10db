"""The simulated accelerator for tests: programs in processes of their own, in which it is installed, and nowhere else.

torch names the device once a process, and takes it for the accelerator from then on: not in a process with other tests.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import deepport_sim
from deepport_sim.build import Missing, built

PROGRAMS = Path(__file__).with_name("programs")
Run = Callable[..., subprocess.CompletedProcess[str]]
Program = Callable[..., Any]


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH: deepport_sim as pip would install it, built. Where it cannot be the tests skip, but not in CI."""
    try:
        built()
    except Missing as why:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(why))
    folder = tmp_path_factory.mktemp("site")
    package = Path(deepport_sim.__file__).parent
    (folder / package.name).symlink_to(package)
    info = folder / "deepport_sim-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: deepport-sim\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[deepport.backends]\nsim = deepport_sim:backend\n")
    return folder


@pytest.fixture(scope="session")
def sim(installed: Path) -> Run:
    """Run Python, by its arguments, where the device is installed; `before` are folders that come first on its path."""

    def run(*arguments: object, before: tuple[Path, ...] = (), settings: str = "") -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([*map(str, before), str(installed), str(PROGRAMS.parents[1]), *filter(None, sys.path)])
        environment = {**os.environ, "PYTHONPATH": path, "DEEPPORT_SIM": settings, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)

    return run


@pytest.fixture(scope="session")
def program(sim: Run, tmp_path_factory: pytest.TempPathFactory) -> Program:
    """What a program of `programs/` prints last, as JSON; run once for each set of arguments, by one of pytest's processes."""
    folder = tmp_path_factory.getbasetemp()
    told = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder

    @cache
    def run(name: str, *arguments: str) -> Any:
        file = told / "-".join(["sim", name, *arguments])[:200]
        with file.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not file.exists():
                done = sim(PROGRAMS / f"{name}.py", *arguments)
                assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
                file.write_text(done.stdout.splitlines()[-1])
        return json.loads(file.read_text())

    return run
