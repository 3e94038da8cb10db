"""`deepport doctor`: whether a run would work on a device, and what to do where it would not."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Annotated

import typer

from deepport import backend
from deepport.command import options
from deepport.command.request import numbered
from deepport.command.terminal import EXIT_CODES, failures
from deepport.doctor import SECONDS, examine
from deepport.errors import BackendUnavailable
from deepport.finding import Finding

EXAMPLES = f"""
Examples:

  deepport doctor --device npu

  deepport doctor --device cuda:1 --json

{EXIT_CODES}
"""

_STATE, _CHECK = 7, 30
"""Widths: of "unknown", and of the longest variable that a backend looks at."""

Timeout = Annotated[
    float, typer.Option(metavar="SECONDS", min=1, help="A driver that gives no answer in this time does not work.")
]


def doctor(
    device: options.Device = "auto",
    timeout: Timeout = SECONDS,
    as_json: options.Json = False,
    traceback: options.Traceback = False,
) -> None:
    """Say what a device needs to run, check by check, and how to get what it lacks.

    Driver, toolkit, torch and what joins them; device files and who may open them; environment variables; the conformance
    record of this machine; then the device is opened and computes, in a process that may crash or hang without harm. Each line
    is ok, not ok or unknown. The last one says that a run works, or what to do first.
    """
    with failures(traceback):
        kind, index = numbered(device)
        name = backend.choose(kind)
        findings = []
        with closing(examine(name, index, timeout)) as found:  # the child ends with us, also where nobody reads on
            for finding in found:
                findings.append(finding)
                if not as_json:
                    sys.stdout.write(line(finding))
                    sys.stdout.flush()  # the next one may take a while
        works = not any(f.fatal for f in findings)
        if as_json:
            head = {"device": f"{name}:{index}", "works": works, "fix": first_fix(findings)}
            sys.stdout.write(json.dumps({**head, "findings": [asdict(f) for f in findings]}) + "\n")
        else:
            sys.stdout.write(_last(findings, name, index, works))
        if not works:
            raise typer.Exit(BackendUnavailable.exit_code)


def line(finding: Finding) -> str:
    fix = f"; {finding.fix}" if finding.fix else ""
    return f"{finding.state:<{_STATE}}  {finding.check:<{_CHECK}}  {finding.found}{fix}\n"


def first_fix(findings: Sequence[Finding]) -> str:
    """Of what keeps the device from running, else of what is not ok, the first; "" where all is well."""
    faults = sorted((f for f in findings if f.state == "not ok"), key=lambda f: f.advice)
    return faults[0].fix if faults else ""


def _last(findings: Sequence[Finding], name: str, index: int, works: bool) -> str:
    if not works:
        return f"first: {first_fix(findings)}\n"
    simulated = " (simulated)" if any(f.check == "simulator" for f in findings) else ""
    advice = f"; to look at: {fix}" if (fix := first_fix(findings)) else ""
    return f"deepport run --device {name}:{index} works here{simulated}{advice}\n"
