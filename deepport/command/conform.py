"""`deepport conform`: what a backend really does, found out and written down."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deepport.command import options
from deepport.command.repro import again
from deepport.command.request import find_device
from deepport.command.terminal import EXIT_CODES, failures
from deepport.conformance.profile import Profile

EXAMPLES = f"""
Examples:

  deepport conform --device npu --profile bring-up

  deepport conform --device cuda --mutants --jobs 4 --html report.html --junit report.xml

  deepport conform --device cpu --operator linear --operator rms_norm

The profile bring-up is what a new backend meets first: every operator on small shapes. inference adds shapes of DeepSeek-V4
Flash and Pro, drawn ones, and the awkward: ragged, empty, tied, huge, past 2^31 bytes. training adds gradients.

Exit code 1: something required does not pass. {EXIT_CODES}
"""

_FILES = "Reports"

Operators = Annotated[
    list[str] | None,
    typer.Option("--operator", metavar="NAME", help="Only this operator; may be given several times. Default: all."),
]
ProfileOption = Annotated[Profile, typer.Option("--profile", help="What is required of the backend.")]
Mutants = Annotated[
    bool,
    typer.Option(
        "--mutants",
        help="Also run deliberately wrong implementations, and say which gate saw each: the suite's own test.",
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Cases at a time, each in processes of its own. Default: one for every two cores; 1 on a device.",
    ),
]
Timeout = Annotated[
    float, typer.Option(metavar="SECONDS", min=1, help="A case that takes longer is ended, and says so.")
]
Json = Annotated[
    Path | None, typer.Option(metavar="FILE", rich_help_panel=_FILES, help="The whole record, as versioned JSON.")
]
Html = Annotated[
    Path | None, typer.Option(metavar="FILE", rich_help_panel=_FILES, help="One page for people, without network.")
]
Junit = Annotated[Path | None, typer.Option(metavar="FILE", rich_help_panel=_FILES, help="JUnit XML, for a CI system.")]
Markdown = Annotated[
    Path | None, typer.Option(metavar="FILE", rich_help_panel=_FILES, help="A summary for a README or a pull request.")
]
Repro = Annotated[
    str | None, typer.Option(metavar="ID", help="Run one case of the last report again: short for deepport repro ID.")
]


def conform(
    device: options.Device = "auto",
    profile: ProfileOption = "inference",
    operator: Operators = None,
    mutants: Mutants = False,
    jobs: Jobs = None,
    timeout: Timeout = 60.0,
    json: Json = None,
    html: Html = None,
    junit: Junit = None,
    markdown: Markdown = None,
    repro: Repro = None,
    traceback: options.Traceback = False,
) -> None:
    """Test every operator of a backend against float64, and say what can be relied on.

    Each case runs in a process that may crash or hang without harm to the rest. What the kernels compute is judged by its error
    against float64, measured by the reference's own; the verdict says what was run by kernels and what by references.
    """
    with failures(traceback):
        if repro is not None:
            raise typer.Exit(again(repro))
        place = find_device(device)
        from deepport.command import conforming

        asked = conforming.Asked(place, profile, tuple(operator or ()), mutants, jobs, timeout)
        raise typer.Exit(conforming.conform(asked, {"json": json, "junit": junit, "markdown": markdown, "html": html}))
