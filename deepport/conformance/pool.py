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
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from deepport.child import environment
from deepport.conformance import wire
from deepport.probing import printable

START_SECONDS = 120.0
"""For importing torch and a vendor's package, and opening a device, on a slow disk."""

_LAST = 1 << 16
"""Bytes of what a process wrote that are looked at when it has died."""

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
    """One process, started at its first request and again after it died.

    `command` gets the number of a socket to answer on.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        seconds: float,
        command: Sequence[str] = (sys.executable, "-X", "faulthandler", "-m", "deepport.conformance.worker"),
    ) -> None:
        self._environment, self._seconds = environment, seconds
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._greeting: wire.Message | None = None
        self._asking = threading.Lock()
        """Held by whoever uses the connection: one thread asks, another may close meanwhile."""
        self._owning = threading.Lock()
        """Held while a process is begun, ended or taken leave of: none begins after the worker was closed."""
        self.closed = False

    def open(self, greeting: wire.Message) -> wire.Message:
        """The answer to a first request, which every process of this worker then gets first. Raises Died."""
        self._greeting = greeting
        return self.ask(greeting)[0]

    def ask(self, message: wire.Message, frames: Sequence[bytes] = ()) -> tuple[wire.Message, list[bytes]]:
        """The answer. Raises Died."""
        with self._asking:
            return self._answer(message, frames)

    def _answer(self, message: wire.Message, frames: Sequence[bytes]) -> tuple[wire.Message, list[bytes]]:
        if self._process is not None:
            return self._exchange(message, frames, self._seconds)
        self._start()
        greeting, patience = self._greeting, self._seconds + START_SECONDS
        if greeting is None or greeting == message:
            return self._exchange(message, frames, patience)
        self._exchange(greeting, (), patience)
        return self._exchange(message, frames, self._seconds)

    def _exchange(
        self, message: wire.Message, frames: Sequence[bytes], patience: float
    ) -> tuple[wire.Message, list[bytes]]:
        try:
            wire.send(self._connection, message, frames)
            if not self._connection.poll(patience):
                self._end()
                raise TimedOut(f"no answer in {patience:.0f} s; its process was ended")
            return wire.receive(self._connection)
        except (EOFError, OSError):
            raise Died(self._obituary()) from None

    def _start(self) -> None:
        with self._owning:
            if self.closed:
                raise Died("the run has ended")
            self._begin()

    def _begin(self) -> None:
        ours, theirs = socket.socketpair()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (read after the process has ended)
        with theirs:
            self._process = subprocess.Popen(
                [*self._command, str(theirs.fileno())],
                env={**environment(DEEPPORT_CHECK="1"), **self._environment},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                start_new_session=True,  # Ctrl-C is for the pool, which then ends its workers
            )
        self._connection = Connection(ours.detach())

    def _obituary(self) -> str:
        process = self._leave()
        code = process.wait() if process else 0
        if process is not None:
            _end_group(process.pid)  # what the process started itself
        self._connection.close()
        with self._output:
            said = self._said()
        if code >= 0:
            return f"its process ended with exit code {code}{said}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"its process died of {name}{hint}{said}"

    def _said(self) -> str:
        """Where Python was, as its faulthandler tells, or the last line that the process wrote."""
        self._output.seek(max(self._output.seek(0, os.SEEK_END) - _LAST, 0))
        text = self._output.read().decode(errors="replace")
        if place := re.search(r'Current thread[^\n]*\n +File "([^"]+)", line (\d+) in (\S+)', text):
            return f" in {place[3]}, {Path(place[1]).name}:{place[2]}"
        lines = text.strip().splitlines()
        return f"; it last wrote: {printable(lines[-1])}" if lines else ""

    def _leave(self) -> subprocess.Popen[bytes] | None:
        """The process, which from here on is the caller's to wait for."""
        with self._owning:
            process, self._process = self._process, None
        return process

    def _end(self) -> None:
        process = self._leave()
        if process is None:
            return
        _end_group(process.pid)
        process.wait()
        self._connection.close()
        self._output.close()

    def close(self) -> None:
        """End the process, for good. Who waits for its answer is told that it died."""
        with self._owning:
            self.closed = True
            if self._process is not None:
                _end_group(self._process.pid)
        with self._asking:
            self._end()


def _end_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


class Slot:
    """A device worker and its judge. A judge trusts nothing that the other does, and shares nothing with it."""

    def __init__(self, threads: int, seconds: float) -> None:
        self.device = Worker({"OMP_NUM_THREADS": str(threads)}, seconds)
        self.judge = Worker(JUDGE, 10 * seconds)

    def close(self) -> None:
        self.device.close()
        self.judge.close()
