"""`deepport repro`: one case again, from its record alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepport.command import options
from deepport.command.render import show
from deepport.command.terminal import EXIT_CODES, failures

if TYPE_CHECKING:
    from deepport.conformance.result import Gate, Result

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


def again(what: str, path: Path | None = None, bundle: Path | None = None, timeout: float = 300.0) -> int:
    """Exit code of `deepport repro`."""
    from deepport.conformance.repro import find, rerun

    then, report = find(what, path)
    now = rerun(then, report, timeout)
    _show(then, now)
    return 0 if now.status == "pass" else 1


def _show(then: Result, now: Result) -> None:
    from deepport.report.words import printable

    out = sys.stdout
    out.write(
        f"{now.operator} {now.case.grid} {printable(now.case.label)}, {printable(now.implementation)}: {now.status}\n"
    )
    if now.reason:
        out.write(f"{printable(now.reason)}\n")
    out.write("\n")
    before = {(g.gate, g.metric): g for g in then.gates}
    rows = [
        (g.gate, printable(g.metric), g.status, *_measured(g), _then(before.get((g.gate, g.metric)))) for g in now.gates
    ]
    show(("gate", "what", "status", ">value", ">bound", ">used", ">used then"), rows, out)


def _measured(gate: Gate) -> tuple[str, str, str]:
    from deepport.report.words import number, share

    value, bound = ("" if v is None else number(v) for v in (gate.value, gate.bound))
    return value, bound, "" if gate.margin is None else share(gate.margin)


def _then(gate: Gate | None) -> str:
    return "" if gate is None else _measured(gate)[2] or gate.status
