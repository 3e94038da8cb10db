"""Programs that run on the simulated NPU, in processes of their own (`cann.run`)."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cann.run import environment, parser
from cann.wheel import Missing

PROGRAMS = Path(__file__).with_name("programs")


def run(program: str, *arguments: str, soc: str = "A2", options: str = "", seconds: float = 300) -> str:
    """What a program of `programs/` prints, with more options of `cann.run`. AssertionError, with all it said, where it fails.

    Where the simulator cannot be had the test skips, but not in CI.
    """
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / f"{program}.py"), *arguments],
        env=_environment(parser().parse_args(["--soc", soc, *options.split(), "--", program])),
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, f"{program} on {soc} {options}:\n{done.stdout}\n{done.stderr}"
    assert "run on the CPU" not in done.stderr, f"torch_npu fell back: {done.stderr}"
    return done.stdout


def _environment(options: argparse.Namespace) -> dict[str, str]:
    try:
        return environment(options)
    except Missing as why:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(why))
