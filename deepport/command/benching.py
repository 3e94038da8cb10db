"""One run of `deepport bench`: watched, shown, and written down."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from deepport.bench import terminal, wholes
from deepport.bench.result import Figure
from deepport.bench.run import Listener, Request, run
from deepport.command.request import Place
from deepport.command.terminal import INTERRUPTED, reader_may_leave
from deepport.report import files
from deepport_model.presets import PRESETS


@dataclass(frozen=True)
class Asked:
    """What the command line asks for (`deepport.bench.run.Request`). `operators`: None where only a model is timed."""

    place: Place
    operators: tuple[str, ...] | None
    model: str | None
    dtype: str | None
    format: str
    prefill: tuple[int, ...]
    depths: tuple[int, ...]
    tokens: int
    peers: tuple[str, ...]
    reference: bool
    rounds: int
    seconds: float
    warm: bool

    def request(self) -> Request:
        """Raises BadInput for what does not exist."""
        place = self.place
        return Request(
            backend=place.backend, index=place.index, device=place.facts.name, operators=self.operators,
            model=self._whole(self.model) if self.model is not None else None,
            dtype=getattr(torch, self.dtype or "bfloat16"), reference=self.reference, rounds=self.rounds,
            seconds=self.seconds, warm=self.warm, command=f"deepport {' '.join(sys.argv[1:])}",
        )  # fmt: skip

    def _whole(self, model: str) -> wholes.Asked:
        dtype = self.dtype or ("bfloat16" if model in PRESETS else None)
        found = wholes.Asked(
            model, self.place.device, dtype, self.format, self.prefill, self.depths, self.tokens, self.peers
        )
        found.check()
        return found


def bench(asked: Asked, json: Path | None, html: Path | None) -> int:
    """Measure, show, write; the exit code."""
    request = asked.request()
    with listening() as listener:
        report = run(request, listener)
    with reader_may_leave():
        terminal.render(report, sys.stdout)
    if json is not None:
        files.write(json, report.model_dump_json(indent=1) + "\n")
    if html is not None:
        from deepport.bench.html import render

        files.write(html, render(report))
    if report.stopped:
        return INTERRUPTED
    return 1 if report.implausible else 0


class _Bar:
    """What is going on, on a terminal."""

    def __init__(self, bar: Progress) -> None:
        self._bar, self._task = bar, bar.add_task("starting", total=None)

    def begun(self, figures: int) -> None:
        self._bar.update(self._task, total=figures)

    def doing(self, what: str) -> None:
        self._bar.update(self._task, description=what)

    def found(self, figure: Figure | None) -> None:
        self._bar.advance(self._task)


class _Lines:
    """The same where nobody watches: a line for each figure."""

    def begun(self, figures: int) -> None:
        sys.stderr.write(f"{figures} figures\n")

    def doing(self, what: str) -> None:
        sys.stderr.write(f"{what}\n")

    def found(self, figure: Figure | None) -> None:
        """Is in the table."""


@contextmanager
def listening() -> Iterator[Listener]:
    if not sys.stderr.isatty():
        yield _Lines()
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Bar(bar)
