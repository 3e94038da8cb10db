"""Worker processes that may die: each request ends in an answer, or in how its worker ended."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from deepport.conformance import wire

START_SECONDS = 120.0
"""For importing torch and a vendor's package, and opening a device, on a slow disk."""

JUDGE: Mapping[str, str] = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MKL_CBWR": "AVX2,STRICT",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
}
"""Environment of a judge: its references compute the same bits on every x86 processor, whatever newer instructions it has.

Strict, or a matrix product's last columns are summed in another order than the others: equal keys would not tie.
"""


class Died(Exception):
    """A worker ended, or was ended, before it answered. The text says how."""

    timeout = False


class TimedOut(Died):
    """It gave no answer in time."""

    timeout = True


class Worker:
    """One process, started at its first request and again after it died."""

    def __init__(self, environment: Mapping[str, str], seconds: float) -> None:
        self._environment, self._seconds = environment, seconds
        self._process: subprocess.Popen[bytes] | None = None
        self.closed = False

    def ask(
        self, message: wire.Message, frames: Sequence[bytes] = (), seconds: float | None = None
    ) -> tuple[wire.Message, list[bytes]]:
        """The answer. Raises Died."""
        if self.closed:
            raise Died("the run has ended")
        starting = self._process is None
        if starting:
            self._start()
        patience = (seconds or self._seconds) + (START_SECONDS if starting else 0.0)
        try:
            wire.send(self._connection, message, frames)
            if not self._connection.poll(patience):
                self._end()
                raise TimedOut(f"no answer in {patience:.0f} s; its process was ended")
            return wire.receive(self._connection)
        except (EOFError, OSError):
            raise Died(self._obituary()) from None

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (read after the process has ended)
        command = [sys.executable, "-X", "faulthandler", "-m", "deepport.conformance.worker", str(theirs.fileno())]
        # What this process can import, its workers can: a backend may have been put on sys.path by a test.
        path = os.pathsep.join(p for p in sys.path if p)
        environment = {**os.environ, "PYTHONPATH": path, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0", "DEEPPORT_CHECK": "1"}
        with theirs:
            self._process = subprocess.Popen(
                command,
                env={**environment, **self._environment},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                start_new_session=True,  # Ctrl-C is for the pool, which then ends its workers
            )
        self._connection = Connection(ours.detach())

    def _obituary(self) -> str:
        process, self._process = self._process, None
        code = process.wait() if process else 0
        self._connection.close()
        said = self._said()
        if code >= 0:
            return f"its process ended with exit code {code}{said}"
        name = signal.Signals(-code).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"its process died of {name}{hint}{said}"

    def _said(self) -> str:
        """Where Python was, as its faulthandler tells, or the last line that the process wrote."""
        self._stderr.seek(0)
        text = self._stderr.read()[-1 << 16 :].decode(errors="replace")
        if place := re.search(r'most recent call first\):\n +File "([^"]+)", line (\d+) in (\S+)', text):
            return f" in {place[3]}, {Path(place[1]).name}:{place[2]}"
        lines = text.strip().splitlines()
        return f": {lines[-1][:200]}" if lines else ""

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._connection.close()

    def close(self) -> None:
        """End the process, for good."""
        self.closed = True
        self._end()


class Slot:
    """A device worker and its judge. A judge trusts nothing that the other does, and shares nothing with it."""

    def __init__(self, threads: int, seconds: float) -> None:
        self.device = Worker({"OMP_NUM_THREADS": str(threads)}, seconds)
        self.judge = Worker(JUDGE, 10 * seconds)

    def close(self) -> None:
        self.device.close()
        self.judge.close()
