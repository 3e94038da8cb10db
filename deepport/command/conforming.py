"""One run of `deepport conform`: watched, written down, and shown."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deepport.command.request import Place
from deepport.command.terminal import INTERRUPTED, reader_may_leave
from deepport.command.watch import watching
from deepport.conformance import store
from deepport.conformance.journal import Journal
from deepport.conformance.profile import Profile
from deepport.conformance.run import Request, check_operators, run
from deepport.conformance.verdict import verdict
from deepport.report import terminal
from deepport.report.outputs import Form, write


@dataclass(frozen=True)
class Asked:
    """What the command line asks for. `jobs`: None for as many as the cores allow, or one on an accelerator."""

    place: Place
    profile: Profile
    operators: tuple[str, ...]
    mutants: bool
    jobs: int | None
    seconds: float

    def request(self) -> Request:
        """Raises BadInput for an operator that does not exist."""
        check_operators("--operator", self.operators)
        cores = len(os.sched_getaffinity(0))
        jobs = self.jobs or (max(cores // 2, 1) if self.place.backend == "cpu" else 1)
        return Request(
            backend=self.place.backend,
            index=self.place.index,
            profile=self.profile,
            operators=self.operators,
            mutants=self.mutants,
            jobs=jobs,
            threads=max(cores // jobs, 1),
            seconds=self.seconds,
            command=f"deepport {' '.join(sys.argv[1:])}",
        )


def conform(asked: Asked, paths: Mapping[Form, Path | None]) -> int:
    """Run, show the verdict, write what was asked for; the exit code."""
    request, journal = asked.request(), Journal(_journal(asked.place, paths.get("json")))
    with watching() as listener:
        report = run(request, listener, journal)
    with reader_may_leave():
        terminal.render(report, sys.stdout)
    # Only now, so that a full disk costs no verdict; and the journal stays until everything is written.
    write(report, paths)
    if report.complete and not asked.operators:
        store.save(report)
    journal.remove()
    if report.stopped == "interrupted":
        return INTERRUPTED
    return 0 if verdict(report).ok else 1


def _journal(place: Place, json: Path | None) -> Path:
    """Beside the report to come, else with the machine's own records."""
    return json.with_name(f"{json.name}.journal") if json else store.folder(place.backend) / "last.journal"
