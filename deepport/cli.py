"""`deepport run | plan | bench | compile | chips | probe | conform | repro | bisect | report | doctor | backends`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import NoReturn

import typer

from deepport import backend
from deepport.command import bench, bisect, chips, conform, doctor, options, planning, probe, report, repro, terminal
from deepport.command import compile as ahead
from deepport.command.render import fields, scaled, show
from deepport.command.terminal import EXIT_CODES, failures
from deepport.run import EXAMPLES, run

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Run a DeepSeek-V4-class model on any device that a backend serves.",
    epilog=EXIT_CODES,
)
app.command(epilog=EXAMPLES)(run)
app.add_typer(report.app, name="report")
app.command(epilog=bench.EXAMPLES)(bench.bench)
app.command(epilog=ahead.EXAMPLES)(ahead.compile)
app.command(epilog=conform.EXAMPLES)(conform.conform)
app.command(epilog=repro.EXAMPLES)(repro.repro)
app.command(epilog=bisect.EXAMPLES)(bisect.bisect)
app.command(epilog=doctor.EXAMPLES)(doctor.doctor)
app.command(epilog=chips.EXAMPLES)(chips.chips)
app.command(epilog=probe.EXAMPLES)(probe.probe)
app.command(epilog=planning.EXAMPLES)(planning.plan)


@app.command(epilog=EXIT_CODES)
def backends(as_json: options.Json = False, traceback: options.Traceback = False) -> None:
    """List the installed backends: their devices, or why there is none and what to install."""
    with failures(traceback):
        found = backend.backends()
        if as_json:
            sys.stdout.write(json.dumps({"backends": [asdict(b) for b in found]}) + "\n")
            return
        rows = [
            (
                b.name,
                f"{len(b.probe.devices)} x {d.name}" if len(b.probe.devices) > 1 else d.name,
                scaled(d.memory, "B"),
                " ".join(d.formats),
                ", ".join(f"{name} {version}" for name, version in b.probe.versions.items()),
            )
            for b in found
            for d in b.probe.devices[:1]
        ]
        show(("backend", "device", ">memory", "formats", "versions"), rows, sys.stdout)
        sys.stdout.write("\n")
        fields(((b.name, f"absent: {b.probe.reason}") for b in found if not b.probe.devices), sys.stdout)


def main() -> NoReturn:
    terminal.main(app)
