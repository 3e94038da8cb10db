"""`deepport plan`: before there is a run, or a chip: who would serve it, whether it fits, and how fast it can be at most."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from deepport import backend
from deepport.command import options
from deepport.command.explain import BASIS
from deepport.command.request import Policy, find_device
from deepport.command.terminal import EXIT_CODES, failures, reader_may_leave
from deepport.errors import BadInput

if TYPE_CHECKING:
    from deepport.paper import OnPaper
    from deepport.planning.check import Checked
    from deepport.planning.plan import Plan

EXAMPLES = f"""
Examples, who would serve:

  deepport plan --device cuda --model ./checkpoint --explain

  deepport plan --device npu --soc 910B --model v4-pro --dtype bfloat16 --explain

Does it fit, what bounds it, and what changes with Engram's tables in the host's memory:

  deepport plan --model v4-flash --chip 910b --devices 8

  deepport plan --model v4-flash-engram --chip h100 --devices 8 --format mxfp4+fp8+fp8 --engram host --html plan.html

  deepport plan --model v4-pro --chip mine.json --devices 16 --context 1048576 --batch 4 --json

Is such a plan true? Beside a run on this machine:

  deepport plan --check --model mini --context 1024

deepport chips lists the chips and where their numbers are from; deepport probe writes this machine's.

{EXIT_CODES}
"""

_PAPER = "Memory and speed, with --chip"

Chip = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        rich_help_panel=_PAPER,
        help="Plan memory and time on this chip, which need not be there: a name that deepport chips lists, or a profile's file.",
    ),
]
Devices = Annotated[int, typer.Option(metavar="N", min=1, rich_help_panel=_PAPER, help="So many of the chip.")]
Context = Annotated[
    int, typer.Option(metavar="TOKENS", min=1, rich_help_panel=_PAPER, help="That each sequence comes to have.")
]
Batch = Annotated[int, typer.Option(metavar="N", min=1, rich_help_panel=_PAPER, help="Sequences at once.")]
Engram = Annotated[
    Literal["device", "host", "mmap"],
    typer.Option(
        rich_help_panel=_PAPER,
        help="Where Engram's tables lie: in the devices' memory, the host's, or a file that the host maps (planned only: run has "
        "the first two).",
    ),
]
Format = Annotated[
    str,
    typer.Option(
        metavar="EXPERTS+DENSE+TABLES",
        rich_help_panel=_PAPER,
        help="Number formats of plain weights, as plain, fp8, int8 or mxfp4: mxfp4+fp8 is what V4 is published in, and "
        "mxfp4+fp8+fp8 with Engram's tables in FP8, too.",
    ),
]
HtmlFile = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", rich_help_panel=_PAPER, help="One page with plots, without network."),
]


Check = Annotated[
    bool,
    typer.Option(
        "--check",
        rich_help_panel=_PAPER,
        help="Probe --device of this machine, plan by that, run the model (random weights will do: mini), and show what was "
        "planned beside what was measured. Exit code 1 where memory differs by more than 3% or a time is below its bound.",
    ),
]


@dataclass(frozen=True)
class Paper:
    """What is asked of a chip on paper."""

    chip: str
    devices: int
    context: int
    batch: int
    engram: Literal["device", "host", "mmap"]
    format: str
    html: Path | None


def plan(
    device: options.Device = "auto",
    model: options.Model = "demo",
    dtype: options.Dtype = None,
    soc: options.Soc = None,
    chunk: options.Chunk = 512,
    fallback: options.Fallback = "device",
    chip: Chip = None,
    devices: Devices = 1,
    context: Context = 8192,
    batch: Batch = 1,
    engram: Engram = "device",
    format: Format = "plain",
    check: Check = False,
    explain: options.Explain = False,
    as_json: options.Json = False,
    html: HtmlFile = None,
    traceback: options.Traceback = False,
) -> None:
    """Show who would serve a model on a device; or, with --chip, whether it fits on a chip and how fast it can be at most.

    Nothing is computed and no weights are read: the model is traced on tensors without data, for one prefill step of --chunk
    tokens and one step of decoding. With --explain, by call site, or with all operators.

    With --chip: memory by class, fits or not and what would make it fit, each operator's least time and what bounds it, tokens a
    second, Engram's rows against the time that hides them, and what if. All rates are upper bounds by model: a run is slower.
    Random weights are then bfloat16 unless --dtype says otherwise.
    """
    with failures(traceback):
        if check:
            if chip is not None or soc is not None or devices != 1 or batch != 1 or engram != "device":
                raise BadInput("--check plans for one device of this machine, probed now, and one sequence")
            raise typer.Exit(_checked(model, dtype, device, chunk, context, format, explain, as_json, html))
        if chip is None:
            _served(model, dtype, device, soc, fallback, chunk, explain, as_json)
            return
        if soc is not None or device != "auto":
            raise BadInput("--chip plans memory and time; who serves is planned without it, by --device (and --soc)")
        _on_paper(model, dtype, chunk, Paper(chip, devices, context, batch, engram, format, html), explain, as_json)


def _served(
    model: str, dtype: str | None, device: str, soc: str | None, fallback: str, chunk: int, explain: bool, as_json: bool
) -> None:
    policy, (name, place, server) = Policy.parse(fallback, 0), _server(device, soc)
    from deepport.command.plan import make_plan

    found = make_plan(model, dtype, server, policy, chunk)
    if as_json:
        head = {"model": model, "device": name, "soc": soc, "basis": BASIS}
        sys.stdout.write(json.dumps({**head, **found.as_json(explain)}) + "\n")
        return
    sys.stdout.write(f"{model} on {place}: ")
    found.show(explain, sys.stdout)


def _on_paper(model: str, dtype: str | None, chunk: int, paper: Paper, explain: bool, as_json: bool) -> None:
    from deepport.chips import shelf
    from deepport.planning.estimate import Load
    from deepport.planning.plan import Asked, make

    load = Load(paper.context, paper.batch, chunk, paper.engram)
    found = make(Asked(model, dtype, paper.format, shelf.find(paper.chip), paper.devices, load))
    _tell(found, None, explain, as_json, paper.html)


def _checked(
    model: str, dtype: str | None, device: str, chunk: int, context: int, format: str, explain: bool, as_json: bool,
    html: Path | None,
) -> int:  # fmt: skip
    place = find_device(device)
    from deepport.planning import check

    request = check.Request(model, place.backend, place.index, place.facts.name, dtype, format, context, chunk)
    found = check.check(request)
    _tell(found.plan, found, explain, as_json, html)
    return 0 if found.holds else 1


def _tell(plan: Plan, checked: Checked | None, explain: bool, as_json: bool, html: Path | None) -> None:
    """A plan on standard output, and as a page where one is wanted; with what was measured beside it, where it was."""
    from deepport.planning import record, terminal

    if as_json:
        found = record.as_json(plan) if checked is None else record.check_as_json(checked)
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        with reader_may_leave():
            terminal.render(plan, explain, sys.stdout)
            if checked is not None:
                terminal.render_check(checked, sys.stdout)
    if html is not None:
        from deepport.planning.html import render
        from deepport.report import files

        files.write(html, render(plan, checked))


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
