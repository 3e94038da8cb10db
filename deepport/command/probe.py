"""`deepport probe`: the profile of the machine at hand, measured."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from deepport.command import options
from deepport.command.request import find_device
from deepport.command.terminal import EXIT_CODES, failures

EXAMPLES = f"""
Examples:

  deepport probe

  deepport plan --model mini --chip here

  deepport probe --device cuda --name my-gpu --output my-gpu.json

{EXIT_CODES}
"""

Name = Annotated[str, typer.Option(metavar="NAME", help="What deepport plan --chip shall call it.")]
Output = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write the profile here, and not among your own, where --chip NAME finds it."),
]
Rounds = Annotated[int, typer.Option(metavar="N", min=1, help="Probes of each limit; the most counts.")]


def probe(
    device: options.Device = "auto",
    name: Name = "here",
    output: Output = None,
    rounds: Rounds = 9,
    traceback: options.Traceback = False,
) -> None:
    """Measure the limits of this machine, and write them as a chip's profile.

    Memory read in order and at random rows, rows of a mapped file that is not in memory (on the disk that the profile is written
    to), products of matrices by number format, a call that does next to nothing, and, of an accelerator, the link from the host.
    Other work on the machine makes the profile too slow: a bound by it may be passed.
    """
    with failures(traceback):
        place = find_device(device)
        from deepport.chips import probed, shelf
        from deepport.command.chips import one
        from deepport.report import files

        path = output or shelf.own() / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        prober = probed.Prober(place.backend, place.index, place.facts.name, path.parent)
        for _ in range(rounds):
            prober.round()
        profile = prober.profile(name)
        files.write(path, profile.model_dump_json(indent=2, exclude_defaults=True) + "\n")
        one(profile)
        sys.stdout.write(f"\nwritten to {path}: deepport plan --chip {name if output is None else output}\n")
