"""One run of `deepport compile`: watched, shown, and held against the baseline."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TypeVar

from deepport.command.render import show
from deepport.command.terminal import INTERRUPTED, progress, reader_may_leave, say
from deepport.conformance.run import check_operators
from deepport.errors import BadInput
from deepport_triton.ahead import baseline, run, versions
from deepport_triton.ahead.result import EVIDENCE, Compiled
from deepport_triton.ahead.target import Target, find
from deepport_triton.architecture import GAPS

_EVERY = 50
"""Results between two lines of progress, where no terminal shows a bar."""

Row = TypeVar("Row")


@dataclass(frozen=True)
class Asked:
    """What the command line asks for."""

    targets: tuple[str, ...]
    operators: tuple[str, ...]
    brief: bool
    check: bool
    update: bool
    jobs: int
    as_json: bool

    @property
    def whole(self) -> bool:
        return not self.operators and not self.brief


@dataclass
class Found:
    """What a run has so far."""

    rows: list[Compiled] = field(default_factory=list)
    interrupted: bool = False


def compile(asked: Asked) -> int:
    """Compile, show, compare; the exit code."""
    targets = find(asked.targets)
    check_operators("--operator", asked.operators)
    compilers = versions.compilers(targets)
    before = known(asked, compilers)
    found = _compiled(asked, targets)
    worse = list(before.regressions(found.rows, asked.whole and not found.interrupted)) if asked.check else []
    with reader_may_leave():
        if asked.as_json:
            sys.stdout.write(json.dumps(_record(found, compilers, worse)) + "\n")
        else:
            _show(asked, targets, found, compilers, worse)
    if found.interrupted:
        return INTERRUPTED
    if asked.update:
        before.take(found.rows, compilers, asked.whole)
        baseline.write(before)
        return 0
    return int(bool(worse) if asked.check else any(row.faults() for row in found.rows))


def known(asked: Asked, compilers: dict[str, str]) -> baseline.Baseline:
    """The baseline, empty where it is not asked for. Raises BadInput where it cannot be compared with."""
    if asked.update and not baseline.PLACE.exists():
        return baseline.Baseline()
    found = baseline.read() if asked.check or asked.update else baseline.Baseline()
    for name, version in compilers.items() if asked.check else ():
        if found.compilers.get(name) != version:
            known = found.compilers.get(name, "none")
            raise BadInput(f"the baseline is of {name} {known}, and here is {version}: install that one, or --update")
    return found


def _compiled(asked: Asked, targets: Sequence[Target]) -> Found:
    from deepport_triton.kernels import KERNELS

    sys.stderr.write("tracing the models' steps\n")
    tasks = run.tasks(KERNELS, targets, asked.operators, asked.brief)
    if not tasks:
        raise BadInput(f"--operator {asked.operators[0]}: no Triton kernel computes it")
    found = Found(*collected(run.run(tasks, asked.jobs), len(tasks), "compiling", "kernels"))
    found.rows.sort(key=lambda r: (r.operator, r.label, r.name, [t.name for t in targets].index(r.target)))
    return found


def collected(results: Generator[Row], count: int, doing: str, what: str) -> tuple[list[Row], bool]:
    """So many results, watched as they come; and whether Ctrl-C has ended it before."""
    found = list[Row]()
    with progress(doing, what) as tell, closing(results):
        try:
            for row in results:
                found.append(row)
                if tell:
                    tell(len(found), count)
                elif len(found) % _EVERY == 0:
                    sys.stderr.write(f"{len(found)} of {count}\n")
        except KeyboardInterrupt:
            return found, True
    return found, False


def _record(found: Found, compilers: dict[str, str], worse: list[str]) -> dict[str, object]:
    return {
        "evidence": EVIDENCE, "compilers": compilers, "interrupted": found.interrupted,
        "compiled": [row.as_json() for row in found.rows], "worse": worse,
    }  # fmt: skip


_COLUMNS = (
    "operator", "kernel", "target", ">registers", ">spills", ">shared", ">of", ">code", "matrices by", ">seconds", "remarks",
)  # fmt: skip


def _show(
    asked: Asked, targets: Sequence[Target], found: Found, compilers: dict[str, str], worse: Sequence[str]
) -> None:
    if not asked.check and not asked.update:
        show(_COLUMNS, map(_row, found.rows), sys.stdout)
        sys.stdout.write("\n")
    for line in _summary(targets, found.rows):
        sys.stdout.write(f"{line}\n")
    sys.stdout.write(f"\n{versions.basis(targets, compilers)} (evidence {EVIDENCE})\n")
    if asked.check:
        sys.stdout.write("".join(f"worse: {line}\n" for line in worse) or "nothing is worse than in the baseline\n")
    if found.interrupted:
        say("interrupted: what is above was compiled")


def _row(row: Compiled) -> tuple[str, ...]:
    numbers = (row.registers, row.spills, row.shared, row.limit or "", row.code)
    facts = tuple("" if row.reason or not row.code else str(n) for n in numbers)
    known = [str(gap) for gap in GAPS.get(row.target, ()) if gap.operator == row.operator]
    remarks = "; ".join((*row.faults(), *known) if row.faults() else ())
    return (row.operator, row.label, row.target, *facts, " ".join(row.instructions), f"{row.seconds:.1f}", remarks)


def _summary(targets: Sequence[Target], rows: Sequence[Compiled]) -> Iterator[str]:
    """A line for each target: how many kernels, and what is wrong with how many."""
    for target in targets:
        mine = [r for r in rows if r.target == target.name]
        kinds = Counter(fault.split()[0].rstrip(":") for row in mine for fault in row.faults())
        words = {
            "refused": "refused",
            "spills": "spill",
            "needs": "beyond shared memory",
            "multiplies": "without matrices",
        }
        wrong = ", ".join(f"{count} {words[kind]}" for kind, count in kinds.items())
        seconds = sum(r.seconds for r in mine)
        yield f"{target.name:<10} {len(mine)} kernels, {wrong or 'none with a fault'}; {seconds:.0f} s of compiling"
