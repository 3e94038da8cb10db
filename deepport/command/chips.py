"""`deepport chips`: the chips that plans know, and where each of their numbers is from."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from deepport.command import options
from deepport.command.render import fields, scaled, show
from deepport.command.terminal import EXIT_CODES, failures

if TYPE_CHECKING:
    from deepport.chips.profile import Profile

EXAMPLES = f"""
Examples:

  deepport chips

  deepport chips h100

  deepport chips 910b --json > mine.json    # to start a profile of your own from

A chip of your own: a file like that (deepport.chips.profile says what each field means), named as --chip mine.json, or put into
the folder that the table's last line names. Every number has a source there, too. deepport probe writes the profile of the
machine at hand.

{EXIT_CODES}
"""

UNKNOWN, LACKING = "?", "-"
"""Stand for what nobody has published, and for what the chip has not got."""

Name = Annotated[str | None, typer.Argument(metavar="[CHIP]", help="Show all numbers of one chip, with their sources.")]


def chips(name: Name = None, as_json: options.Json = False, traceback: options.Traceback = False) -> None:
    """List the chips that deepport plan --chip knows, or show one with the source of each number.

    Numbers are of one device, and dense; ? is what nobody has published, and never a guess; - is what the chip has not got.
    """
    with failures(traceback):
        from deepport.chips import shelf

        found = list(shelf.profiles()) if name is None else [shelf.find(name)]
        if as_json:
            made = [profile.model_dump(mode="json", exclude_defaults=True) for profile in found]
            sys.stdout.write(json.dumps(made if name is None else made[0], indent=2, ensure_ascii=False) + "\n")
        elif name is None:
            _list(found)
            sys.stdout.write(f"\n? is not published, - is not there. Profiles of your own go to {shelf.own()}\n")
        else:
            one(found[0])


def shown(name: str, value: float) -> str:
    """A profile's number, with its unit."""
    if name == "launch":
        from deepport.report.words import duration

        return duration(value)
    sizes = {"memory": "B", "cache": "B", "host_memory": "B"}
    return scaled(value, "OP/s" if name.startswith("flops") else sizes.get(name, "B/s"))


def _list(profiles: Iterable[Profile]) -> None:
    columns = ("memory", "bandwidth", "flops bfloat16", "flops int8", "flops fp8", "flops fp4", "link")
    rows = []
    for profile in profiles:
        found = dict.fromkeys((f"flops {name}" for name in profile.lacks), LACKING)
        found |= {name: shown(name, number.value) for name, number in profile.numbers()}
        rows.append((profile.name, profile.vendor, profile.title, *(found.get(c, UNKNOWN) for c in columns)))
    show(("chip", "vendor", "what", *(f">{c.removeprefix('flops ')}" for c in columns)), rows, sys.stdout)


def one(profile: Profile) -> None:
    sys.stdout.write(f"{profile.name}: {profile.vendor} {profile.title}\n\n")
    rows = [(name, shown(name, number.value), number.source, number.note) for name, number in profile.numbers()]
    show(("number", ">value", "source", "note"), rows, sys.stdout)
    known = {name for name, _ in profile.numbers()}
    unknown = [n for n in ("memory", "bandwidth", "cache", "link", "launch", "host_memory") if n not in known]
    sys.stdout.write(f"\nnot published: {', '.join(unknown)}\n" if unknown else "\n")
    if profile.lacks:
        sys.stdout.write(f"not there: arithmetic in {', '.join(profile.lacks)}; such weights are decoded\n")
    for limit in profile.limits:
        sys.stdout.write(f"note: {limit}\n")
    sys.stdout.write("\n")
    fields(
        (
            (key, ", ".join(filter(None, (f"{s.title} ({s.by})", s.date, s.address))))
            for key, s in profile.sources.items()
        ),
        sys.stdout,
    )
