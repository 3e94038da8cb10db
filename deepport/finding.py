"""Findings: what `deepport doctor` says of a machine, and the checks that backends share. Nothing here imports torch."""

from __future__ import annotations

import grp
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deepport.probing import printable

State = Literal["ok", "not ok", "unknown"]

_LONGEST = 500


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, whether it is as it must be, what was found, and what to do.

    `unknown` is what could not be looked at, or what nobody has published. `advice`: a run may work all the same; without it
    one that is not ok means that the device cannot be used. Texts may come from drivers: they are made one printable line.
    """

    check: str
    state: State
    found: str
    fix: str = ""
    advice: bool = False

    def __post_init__(self) -> None:
        for name in ("check", "found", "fix"):
            object.__setattr__(self, name, printable(getattr(self, name), _LONGEST))

    @property
    def fatal(self) -> bool:
        return self.state == "not ok" and not self.advice


def ok(check: str, found: str) -> Finding:
    return Finding(check, "ok", found)


def wrong(check: str, found: str, fix: str, advice: bool = False) -> Finding:
    return Finding(check, "not ok", found, fix, advice)


def unknown(check: str, found: str, fix: str = "") -> Finding:
    return Finding(check, "unknown", found, fix)


def version(check: str, found: str, package: str) -> Finding:
    """A version that was read, or that of `package` none could be."""
    return ok(check, found) if found else unknown(check, f"{package} does not say its version")


def openable(check: str, files: Sequence[Path], *, advice: bool = False) -> Finding:
    """Files of a driver that this process must be able to read and write; where it may not, the group that may."""
    missing = [f for f in files if not f.exists()]
    if missing:
        what = f"{_names(missing)} {'is' if len(missing) == 1 else 'are'} not there"
        flags = " ".join(f"--device {f}" for f in missing)
        fix = f"start the container with {flags}" if contained() else "load the driver, or install it"
        return wrong(check, what, fix, advice)
    closed = [f for f in files if not os.access(f, os.R_OK | os.W_OK)]
    if not closed:
        return ok(check, f"{_names(files)} can be opened")
    fix = f"add your user to the group {_group(closed[0])} (usermod -a -G {_group(closed[0])} USER) and log in again"
    return wrong(check, f"{_names(closed)} may not be opened by this user", fix, advice)


def _names(files: Sequence[Path]) -> str:
    first, *rest = map(str, files)
    return f"{first} and {len(rest)} more" if rest else first


def _group(file: Path) -> str:
    number = file.stat().st_gid
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:  # a container need not know its host's groups
        return str(number)


def contained(root: Path = Path("/")) -> bool:
    """This is a container, as docker and podman mark theirs."""
    return (root / ".dockerenv").exists() or (root / "run" / ".containerenv").exists()


Environment = Mapping[str, str]


def variable(
    environment: Environment, name: str, unset: str, wrong_of: Callable[[str], str] = lambda value: "", fix: str = ""
) -> Finding:
    """An environment variable: what it means that it is not set, and why its value is wrong ("" where it is not).

    A wrong one is advice: whether a run works is found out by running.
    """
    value = environment.get(name)
    if value is None:
        return ok(name, f"not set: {unset}")
    if why := wrong_of(value):
        return wrong(name, f"{value!r}: {why}", fix or f"unset {name}", advice=True)
    return ok(name, repr(value))


def among(*values: str) -> Callable[[str], str]:
    """That a value is none of these."""
    return lambda value: "" if value in values else f"is none of {', '.join(values)}"


def folder(value: str) -> str:
    """That a value is no folder."""
    return "" if Path(value).is_dir() else "is no folder"


def numbers(value: str) -> str:
    """That a value is no list of device numbers."""
    if not value:
        return "hides every device"
    parts = value.split(",")
    if not all(p.strip().isascii() and p.strip().isdecimal() for p in parts):
        return "is no list of device numbers, such as 0,1"
    return "names a device twice" if len({int(p) for p in parts}) < len(parts) else ""
