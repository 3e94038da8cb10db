"""`deepport repro`: one case again, from its record alone."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepport.command import options
from deepport.command.render import show
from deepport.command.terminal import EXIT_CODES, failures

if TYPE_CHECKING:
    from deepport.conformance.result import Gate

EXAMPLES = f"""
Examples:

  deepport repro 3f9a0c41de

  deepport repro 3f9a0c41de --report report.json --bundle broken-linear

  deepport repro broken-linear

Exit code 1: it does not pass. {EXIT_CODES}
"""

What = Annotated[
    str, typer.Argument(metavar="ID|DIRECTORY", help="A case's id, as a report shows it, or the folder of a bundle.")
]
From = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE", help="The report that has the id. Default: this machine's last ones."),
]
Bundle = Annotated[
    Path | None,
    typer.Option(
        metavar="DIRECTORY", help="Where inputs, expected and computed outputs of a failing case go. Default: repro-ID."
    ),
]
Seconds = Annotated[float, typer.Option("--timeout", metavar="SECONDS", min=1, help="How long it may take.")]


def repro(
    what: What,
    report: From = None,
    bundle: Bundle = None,
    timeout: Seconds = 300.0,
    traceback: options.Traceback = False,
) -> None:
    """Run one case of a conformance report again, and show every gate's measurement then and now.

    The case is drawn again from its record: the builder's name, its parameters and the seed. A case that fails leaves a bundle:
    a folder with its inputs, what was expected, what came, and the environment, which runs again anywhere with deepport repro.
    """
    with failures(traceback):
        raise typer.Exit(again(what, report, bundle, timeout))


def again(what: str, path: Path | None = None, folder: Path | None = None, timeout: float = 300.0) -> int:
    """Exit code of `deepport repro`."""
    if Path(what).is_dir():
        return _bundle(Path(what))
    from deepport.conformance.repro import again, find, keep
    from deepport.conformance.result import MODEL

    then, report = find(what, path)
    now, got = again(then, report, timeout)
    _title(f"{now.operator} {now.case.grid} {now.case.label}", now.implementation, now.status, now.reason)
    _gates(now.gates, {(g.gate, g.metric): g for g in then.gates})
    if now.status == "pass":
        return 0
    if now.case.grid != MODEL:  # that has no arguments to keep: deepport bisect finds the call that is wrong
        folder = folder or Path(f"deepport-repro-{now.id}")
        keep(folder, report.backend, now, got)
        sys.stdout.write(
            f"\n{folder}: its inputs, what was expected and what came; deepport repro {folder} runs them again\n"
        )
    return 1


def _bundle(folder: Path) -> int:
    """Run a bundle again, in this process: a debugger can watch."""
    from deepport.conformance.bundle import read
    from deepport.conformance.rerun import rerun

    recorded, now = read(folder), rerun(folder)
    _title(f"{recorded.operator} {recorded.site}".rstrip(), now.implementation, "pass" if now.passes else "fail", "")
    for changed in now.changed:
        sys.stdout.write(f"changed: {changed}\n")
    _gates(now.gates, {(g.gate, g.metric): g for g in recorded.gates})
    return 0 if now.passes else 1


def _title(what: str, implementation: str, status: str, reason: str) -> None:
    from deepport.report.words import printable

    sys.stdout.write(f"{printable(what)}, {printable(implementation)}: {status}\n")
    if reason:
        sys.stdout.write(f"{printable(reason)}\n")


def _gates(gates: Sequence[Gate], then: Mapping[tuple[str, str], Gate]) -> None:
    from deepport.report.words import printable

    rows = [(g.gate, printable(g.metric), g.status, *_measured(g), _then(then.get((g.gate, g.metric)))) for g in gates]
    sys.stdout.write("\n")
    show(("gate", "what", "status", ">value", ">bound", ">used", ">used then"), rows, sys.stdout)


def _measured(gate: Gate) -> tuple[str, str, str]:
    from deepport.report.words import number, share

    value, bound = ("" if v is None else number(v) for v in (gate.value, gate.bound))
    return value, bound, "" if gate.margin is None else share(gate.margin)


def _then(gate: Gate | None) -> str:
    return "" if gate is None else _measured(gate)[2] or gate.status
