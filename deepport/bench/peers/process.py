"""A runner in a process of its own."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepport.bench.peers import Runner
from deepport.errors import DeepportError
from deepport.probing import printable

_TELLING = re.compile(r"assert|error|exception|terminate", re.IGNORECASE)
"""What a line says that tells why a process ended; others may follow it."""


class PeerFailed(DeepportError):
    """A peer's process ended, or said what is wrong: the run goes on without it."""


@dataclass(frozen=True)
class Start:
    """How to start a peer.

    Attributes:
        module: has `start(folder, threads, capacity, chunk) -> Runner` and `about() -> (version, settings)`.
        folder: where its weights are; what it prints goes there, too.
        capacity: tokens that a sequence may have; `chunk`, new ones that it may compute at a time.
    """

    module: str
    folder: Path
    threads: int
    capacity: int
    chunk: int


class PeerProcess:
    """The other end of a peer: a `Runner` whose `feed` returns the seconds that it took there."""

    def __init__(self, start: Start) -> None:
        self._log = start.folder / f"{start.module.rpartition('.')[2]}.log"
        spawning = multiprocessing.get_context("spawn")  # a fork would inherit threads that are not there
        self._pipe, theirs = spawning.Pipe()
        self._process = spawning.Process(target=_serve, args=(theirs, start, self._log), daemon=True)
        self._process.start()
        theirs.close()
        self.version, self.settings = self._answer()

    def reset(self) -> None:
        self._ask("reset")

    def feed(self, ids: Sequence[int]) -> float:
        return float(self._ask("feed", list(ids)))

    def logits(self) -> Tensor:
        return torch.tensor(self._ask("logits"))

    def close(self) -> None:
        self._pipe.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()

    def _ask(self, verb: str, *arguments: Any) -> Any:
        try:
            self._pipe.send((verb, *arguments))
        except OSError:
            raise PeerFailed(self._ended()) from None
        return self._answer()

    def _answer(self) -> Any:
        try:
            kind, answer = self._pipe.recv()
        except (EOFError, OSError):
            raise PeerFailed(self._ended()) from None
        if kind == "error":
            raise PeerFailed(answer)
        return answer

    def _ended(self) -> str:
        self._process.join(timeout=5)
        code = self._process.exitcode or 0
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        telling = [line for line in lines if _TELLING.search(line)] or lines
        return f"its process {how}" + (f": {printable(telling[-1])}" if telling else "")


def _serve(pipe: Connection, start: Start, log: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which then closes the pipe
    _print_to(log)
    try:
        module = importlib.import_module(start.module)
        runner: Runner = module.start(start.folder, start.threads, start.capacity, start.chunk)
        pipe.send(("done", module.about()))
        while True:
            verb, *arguments = pipe.recv()
            pipe.send(("done", _done(runner, verb, arguments)))
    except EOFError:
        return
    except Exception as error:  # a peer may raise anything
        pipe.send(("error", f"{type(error).__name__}: {printable(str(error))}"))


def _done(runner: Runner, verb: str, arguments: list[Any]) -> Any:
    if verb == "feed":
        begin = time.perf_counter()
        runner.feed(*arguments)
        return time.perf_counter() - begin
    return runner.logits().tolist() if verb == "logits" else runner.reset()


def _print_to(log: Path) -> None:
    """Standard output and errors of this process, its libraries' too, go to a file."""
    with log.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
