"""The operators' own cases by the IR that Ascend's compiler is given, on this processor: evidence E4 of what it means.

A kernel's call becomes launches, each launch a function of triton-ascend's IR, and its programs run one after another as machine
code of x86 (`host`, `x86`). What comes out is judged as in `deepport conform`. Of what the closed compiler makes of the IR, of
the chip's own arithmetic and of speed nothing is seen.
"""

from __future__ import annotations

import os
import queue
import shutil
import sys
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from deepport.conformance.pool import JUDGE, Died, Worker
from deepport.errors import BackendUnavailable
from deepport.op import operators
from deepport_triton.ahead import npu
from deepport_triton.ahead.target import Target
from deepport_triton.ahead.x86 import TOOLS

EVIDENCE = "E4"
SECONDS = 300.0
"""That one case may take."""

_PROGRAM = str(Path(__file__).with_name("executor.py"))
_NEEDED = ("mlir-opt", "mlir-translate", "opt", "llc")


@dataclass(frozen=True)
class Task:
    """One case of an operator, as a target's compiler has its kernel."""

    operator: str
    case: str
    target: str


@dataclass(frozen=True)
class Executed:
    """What came of it: `reason` is why it could not run, `failed` the gates that it failed; neither, and it passed."""

    task: Task
    reason: str = ""
    failed: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """Why it is no evidence, "" where it is."""
        return f"wrong: {'; '.join(self.failed)}" if self.failed else self.reason


def tools() -> None:
    """Raises BackendUnavailable where LLVM's tools or gcc are not here, or no triton-ascend."""
    npu.process()
    if absent := [name for name in _NEEDED if not (TOOLS / name).exists()]:
        raise BackendUnavailable(f"{TOOLS / absent[0]} does not exist; apt-get install mlir-19-tools llvm-19")
    if shutil.which("gcc") is None:
        raise BackendUnavailable("gcc is not here; apt-get install gcc")


def tasks(names: Sequence[str], targets: Sequence[Target]) -> list[Task]:
    """The cases of these operators, for each target."""
    return [Task(name, case.label, t.name) for t in targets for name in names for case in operators[name].cases]


def run(asked: Sequence[Task], count: int = 0) -> Generator[Executed]:
    """Run them, on so many processes (of 0: as many as there are cores). Closing the iterator ends them all."""
    processes = count or len(os.sched_getaffinity(0))
    idle = queue.SimpleQueue[Worker]()
    with ThreadPoolExecutor(processes) as threads, ExitStack() as ending:
        for _ in range(processes):
            worker = Worker({**JUDGE, "TRITON_INTERPRET": "0"}, SECONDS, (sys.executable, _PROGRAM))
            ending.callback(worker.close)
            idle.put(worker)
        for future in as_completed([threads.submit(_executed, task, idle) for task in asked]):
            yield future.result()


def _executed(task: Task, idle: queue.SimpleQueue[Worker]) -> Executed:
    worker = idle.get()
    try:
        answer, _ = worker.ask({"operator": task.operator, "case": task.case, "target": task.target})
    except Died as death:
        return Executed(task, f"the process: {death}")
    finally:
        idle.put(worker)
    return Executed(task, answer.get("reason", ""), tuple(answer.get("failed", ())))
