"""Programs that run on the simulated NPU, in processes of their own (`cann.run`)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cann.run import environment, parser

PROGRAMS = Path(__file__).with_name("programs")


def run(program: str, *arguments: str, soc: str = "A2", lazy: bool = False, seconds: float = 300) -> str:
    """What a program of `programs/` prints. AssertionError, with all that it said, where it fails."""
    options = parser().parse_args(["--soc", soc, *(["--lazy"] if lazy else []), "--", program])
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / f"{program}.py"), *arguments],
        env=environment(options),
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, f"{program} on {soc}:\n{done.stdout}\n{done.stderr}"
    return done.stdout
