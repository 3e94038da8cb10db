"""Child processes: what they can import, how they are ended, how they died."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import IO

from deepport.probing import printable

STUCK = 5.0
"""Seconds that a killed process has to be gone; one that waits inside a driver is not."""


def environment(**more: str) -> dict[str, str]:
    """Of a child that can import what this process can: a backend may be on sys.path alone."""
    path = os.pathsep.join(p for p in sys.path if p)
    return {**os.environ, "PYTHONPATH": path, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0", **more}


def end(process: subprocess.Popen[bytes]) -> bool:
    """Kill the leader of a session, and what it started; False where it does not go, because it waits inside a driver."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        process.wait(STUCK)
    except subprocess.TimeoutExpired:
        return False
    return True


def obituary(process: subprocess.Popen[bytes], output: IO[bytes]) -> str:
    """How a process ended that has nothing more to say, and the last line of its output."""
    try:
        code = process.wait(STUCK)
    except subprocess.TimeoutExpired:
        return "its process gives no answer and does not end"
    output.seek(0)
    lines = output.read().decode(errors="replace").strip().splitlines()
    said = f"; it last wrote: {printable(lines[-1])}" if lines else ""
    if code >= 0:
        return f"its process ended with exit code {code}{said}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"its process died of {name}{said}"
