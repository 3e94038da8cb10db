"""A worker may be closed by one thread while another waits for its answer."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from deepport.conformance.pool import Died, Worker

WAITS = (sys.executable, "-S", "-c", "import time; time.sleep(60)")
"""It gets the number of a socket like every worker, and never answers on it."""


class SlowConnection:
    """A connection whose closing takes a while, so that two who close it at once meet."""

    def __init__(self, worker: Worker) -> None:
        self.closings = 0
        self._inner, worker._connection = worker._connection, self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def close(self) -> None:
        self.closings += 1
        time.sleep(0.2)
        self._inner.close()


def asked(worker: Worker, deaths: list[str]) -> threading.Thread:
    def ask() -> None:
        try:
            worker.ask({"do": "wait"})
        except Died as death:
            deaths.append(str(death))

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def open_files() -> set[str]:
    return {p.name for p in Path("/proc/self/fd").iterdir()}


def test_a_worker_that_is_closed_while_it_is_asked_ends_once() -> None:
    before = open_files()
    worker, deaths = Worker({}, 30.0, WAITS), list[str]()
    thread = asked(worker, deaths)
    while not hasattr(worker, "_connection"):
        time.sleep(0.01)
    connection = SlowConnection(worker)
    time.sleep(0.2)
    worker.close()
    thread.join(10.0)
    assert not thread.is_alive() and connection.closings == 1
    assert deaths == ["its process died of SIGKILL (out of memory?)"] or deaths == ["the run has ended"]
    assert open_files() <= before


def test_a_worker_that_was_closed_starts_no_process() -> None:
    worker = Worker({}, 30.0, WAITS)
    worker.close()
    deaths: list[str] = []
    asked(worker, deaths).join(10.0)
    assert deaths == ["the run has ended"]
