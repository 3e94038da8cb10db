"""A whole run: launches traced, jobs given to processes, results as they come."""

from __future__ import annotations

import os
import queue
import sys
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import torch

from deepport import backend
from deepport.conformance.pool import Died, Worker
from deepport.kernel import Kernel
from deepport_triton.ahead import npu
from deepport_triton.ahead.job import Job, jobs
from deepport_triton.ahead.result import Compiled, result
from deepport_triton.ahead.target import Target
from deepport_triton.ahead.trace import DTYPES, MODELS, made, of_cases

Task = tuple[Job, Target]

SECONDS = 300.0
"""That a compiler may take for one job."""

_PROGRAM = str(Path(__file__).with_name("worker.py"))


def tasks(kernels: Sequence[Kernel], targets: Sequence[Target], operators: Sequence[str], brief: bool) -> list[Task]:
    """What there is to compile: of these operators, or of all; in brief V4-Flash with a memory, in bfloat16.

    Ascend's compiler is also asked for the operators' own cases: what it has not accepted is not launched (`accepted`).
    """
    wanted = [k for k in kernels if not operators or k.operator in operators]
    accepted = backend.accepted("triton", wanted)
    offered = {target.name: accepted for target in targets}
    some = (["engram"], [torch.bfloat16]) if brief else (list(MODELS), list(DTYPES))
    wary = {target.name: accepted for target in targets if target.compiler == "npu" and not brief}
    return jobs(chain(made(offered, *some), of_cases(wary)), targets, brief)


class Processes:
    """So many processes that compile, each for GPUs or for NPUs, whose compilers live apart."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._workers: list[Worker] = []
        self._idle: dict[bool, queue.SimpleQueue[Worker]] = {}

    def start(self, targets: Sequence[Target]) -> None:
        """Raises BackendUnavailable where the compiler for NPUs is not here."""
        for for_npu in {t.compiler == "npu" for t in targets}:
            self._idle[for_npu] = queue.SimpleQueue()
            for _ in range(self._count):
                self._workers.append(worker(for_npu))
                self._idle[for_npu].put(self._workers[-1])

    def compile(self, task: Task) -> Compiled:
        job, target = task
        idle = self._idle[target.compiler == "npu"]
        worker = idle.get()
        try:
            answer, _ = worker.ask({"job": job.as_json(), "target": asdict(target)})
        except Died as death:
            answer = {"seconds": 0.0, "reason": f"the compiler: {death}"}
        finally:
            idle.put(worker)
        return result(job, target, answer)

    def close(self) -> None:
        for worker in self._workers:
            worker.close()


def worker(for_npu: bool) -> Worker:
    """A process that compiles. Raises BackendUnavailable where the compiler for NPUs is not here."""
    python, path = npu.process() if for_npu else (sys.executable, "")  # path: of our packages, behind its own
    environment = {"TRITON_INTERPRET": "0", "OMP_NUM_THREADS": "1"}
    if path:
        environment |= {"PYTHONPATH": "", "DEEPPORT_PATH": path}
    return Worker(environment, SECONDS, (python, "-P", "-X", "faulthandler", _PROGRAM))


def run(tasks: Sequence[Task], count: int = 0) -> Generator[Compiled]:
    """Compile, on so many processes (of 0: as many as there are cores). Closing the iterator ends them all."""
    processes = Processes(count or len(os.sched_getaffinity(0)))
    processes.start([target for _, target in tasks])
    with closing(processes), ThreadPoolExecutor(processes._count) as threads:
        found = [threads.submit(processes.compile, task) for task in tasks]
        try:
            for future in as_completed(found):
                yield future.result()
        except BaseException:  # Ctrl-C, or the reader has left
            processes.close()
            threads.shutdown(wait=False, cancel_futures=True)
            raise
