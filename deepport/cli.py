"""`deepport run | plan | bench | conform | repro | bisect | report | doctor | backends`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, NoReturn

import typer

from deepport import backend
from deepport.command import bench, bisect, chips, conform, doctor, options, probe, report, repro, terminal
from deepport.command.explain import BASIS
from deepport.command.render import fields, scaled, show
from deepport.command.request import Policy, find_device
from deepport.command.terminal import EXIT_CODES, failures
from deepport.errors import BadInput
from deepport.run import EXAMPLES, run

if TYPE_CHECKING:
    from deepport.paper import OnPaper

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Run a DeepSeek-V4-class model on any device that a backend serves.",
    epilog=EXIT_CODES,
)
app.command(epilog=EXAMPLES)(run)
app.add_typer(report.app, name="report")
app.command(epilog=bench.EXAMPLES)(bench.bench)
app.command(epilog=conform.EXAMPLES)(conform.conform)
app.command(epilog=repro.EXAMPLES)(repro.repro)
app.command(epilog=bisect.EXAMPLES)(bisect.bisect)
app.command(epilog=doctor.EXAMPLES)(doctor.doctor)
app.command(epilog=chips.EXAMPLES)(chips.chips)
app.command(epilog=probe.EXAMPLES)(probe.probe)

_PLAN_EXAMPLES = f"""
Examples:

  deepport plan --device cpu --model v4-flash --dtype bfloat16

  deepport plan --device cuda --model ./checkpoint --explain

  deepport plan --device npu --soc 910B --model v4-pro --dtype bfloat16 --explain

{EXIT_CODES}
"""


@app.command(epilog=_PLAN_EXAMPLES)
def plan(
    device: options.Device = "auto",
    model: options.Model = "demo",
    dtype: options.Dtype = None,
    soc: options.Soc = None,
    chunk: options.Chunk = 512,
    fallback: options.Fallback = "device",
    explain: options.Explain = False,
    as_json: options.Json = False,
    traceback: options.Traceback = False,
) -> None:
    """Show who would serve every operator of a model on a device.

    Nothing is computed and no weights are read: the model is traced on tensors without data, for one prefill step of --chunk
    tokens and one step of decoding. With --explain, by call site. With --soc, for a chip that need not be there.
    """
    with failures(traceback):
        policy, (name, place, server) = Policy.parse(fallback, 0), _server(device, soc)
        from deepport.command.plan import make_plan

        found = make_plan(model, dtype, server, policy, chunk)
        if as_json:
            head = {"model": model, "device": name, "soc": soc, "basis": BASIS}
            sys.stdout.write(json.dumps({**head, **found.as_json(explain)}) + "\n")
            return
        sys.stdout.write(f"{model} on {place}: ")
        found.show(explain, sys.stdout)


def _server(device: str, soc: str | None) -> tuple[str, str, str | OnPaper]:
    """The name of the backend that serves the plan, the place as people read it, and the server: there, or on paper."""
    if soc is None:
        place = find_device(device)
        return place.backend, f"{place.device} ({place.facts.name})", place.backend
    if device == "auto":
        raise BadInput("--soc names a chip of a backend; name the backend too, as in --device npu --soc 910B")
    from deepport.paper import OnPaper

    server = OnPaper(backend.choose(device), soc)
    return server.name, f"{soc} ({server.basis})", server


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
