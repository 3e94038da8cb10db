"""The simulated NPU for tests: programs in processes of their own. What one prints as JSON, several tests may look at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cann.build import built
from cann.wheel import Missing, wheel

HERE = Path(__file__).parent
Run = Callable[..., subprocess.CompletedProcess[str]]
Program = Callable[..., Any]


@pytest.fixture(scope="session")
def libraries() -> Path:
    """The simulated libraries. Where they cannot be had the tests skip, but not in CI."""
    try:
        return built(wheel())
    except Missing as why:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(why))


@pytest.fixture(scope="session")
def npu(libraries: Path) -> Run:
    """Run Python with the simulated NPU: options of `cann.run`, then Python's arguments."""

    def run(*arguments: object, options: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cann.run", *options.split(), "--", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)

    return run


@pytest.fixture(scope="session")
def program(npu: Run) -> Program:
    """What a program of `programs/` prints last, as JSON; run once for each set of options."""

    @cache
    def run(name: str, options: str = "") -> Any:
        done = npu(HERE / "programs" / f"{name}.py", options=options)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run
