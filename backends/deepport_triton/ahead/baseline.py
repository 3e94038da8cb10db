"""What the kernels needed when they were looked at last, and what must not grow unseen: `baseline.json` beside this package."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepport.errors import BadInput
from deepport.report import files
from deepport_triton.ahead.result import Compiled

if TYPE_CHECKING:
    from deepport_triton.ahead.execute import Executed

PLACE = Path(__file__).parents[1] / "baseline.json"

GROWTH = {"registers": 0.10, "shared": 0.10, "code": 0.25}
"""By which share of its former value each may grow: a compiler's whims stay below, a loop unrolled does not."""

_NUMBERS = ("registers", "spills", "shared", "code")

Kept = dict[str, Any]
Exceptions = dict[str, dict[str, list[str]]]
"""By operator and by reason, the cases that are no evidence: all others were executed, and passed."""


@dataclass
class Baseline:
    """By compiler its version; by target and by a job's name what was found: numbers and instructions, or a reason.

    `executed`: by target, of the operators whose cases were executed on this processor, what did not pass.
    """

    compilers: dict[str, str] = field(default_factory=dict)
    targets: dict[str, dict[str, Kept]] = field(default_factory=dict)
    executed: dict[str, Exceptions] = field(default_factory=dict)

    def take(self, rows: Sequence[Compiled], compilers: dict[str, str], whole: bool) -> None:
        """Make this what was found. `whole`: what of these targets was not compiled exists no more."""
        self.compilers |= compilers
        for name in {r.target for r in rows}:
            before = {} if whole else self.targets.get(name, {})
            self.targets[name] = before | {r.name: kept(r) for r in rows if r.target == name}

    def take_executed(self, rows: Sequence[Executed]) -> None:
        """Make this what was executed, of the operators that were asked for."""
        for row in rows:
            self.executed.setdefault(row.task.target, {})[row.task.operator] = {}
        for row in rows:
            if row.told:
                self.executed[row.task.target][row.task.operator].setdefault(row.told, []).append(row.task.case)

    def changes(self, rows: Sequence[Executed]) -> Iterator[str]:
        """What of cases is another than before: they pass no more, pass at last, or another reason is given."""
        for row in rows:
            of = self.executed.get(row.task.target, {}).get(row.task.operator)
            before = next((reason for reason, cases in (of or {}).items() if row.task.case in cases), "")
            where = f"{row.task.target}: {row.task.operator}: {row.task.case}"
            if of is None:
                yield f"{where}: is not in the baseline; --update"
            elif row.told != before:
                yield f"{where}: {row.told or 'passes now; --update'} (before: {before or 'passed'})"

    def regressions(self, rows: Sequence[Compiled], whole: bool) -> Iterator[str]:
        """What is worse than before, or not the same kernels. Of what is not worse nothing is said, even if it is better."""
        for row in rows:
            before = self.targets.get(row.target, {}).get(row.name)
            yield from (f"{row.target}: {row.label}: {what}" for what in worse(row, before))
        names = {(r.target, r.name) for r in rows}
        for target in {r.target for r in rows} if whole else ():
            gone = [name for name in self.targets.get(target, {}) if (target, name) not in names]
            yield from (f"{target}: {name}: is in the baseline and is no longer compiled; --update" for name in gone)


def worse(row: Compiled, before: Kept | None) -> Iterator[str]:
    """How a result is worse than what was kept of it."""
    if before is None:
        yield "is not in the baseline; --update"
    elif row.reason and "reason" not in before:
        yield f"no longer compiles: {row.reason}"
    elif "reason" in before and not row.reason:
        yield "compiles now, and the baseline says that it is refused; --update"
    elif not row.reason:
        yield from _grown(row, before)


def _grown(row: Compiled, before: Kept) -> Iterator[str]:
    if row.spills > before["spills"]:
        yield f"spills {row.spills} bytes, {before['spills']} before"
    for what, share in GROWTH.items():
        now, was = getattr(row, what), before[what]
        if now > was * (1 + share):
            yield f"{what} {now}, {was} before: more than {share:.0%} above"
    if lost := [i for i in before["instructions"] if i not in row.instructions]:
        yield f"no {', '.join(lost)} any more"


def kept(row: Compiled) -> Kept:
    """What the baseline keeps of a result."""
    if row.reason:
        return {"reason": row.reason}
    return {name: getattr(row, name) for name in _NUMBERS} | {"instructions": list(row.instructions)}


def read(path: Path = PLACE) -> Baseline:
    """Raises BadInput for a file that cannot be read as one."""
    try:
        told = json.loads(path.read_text())
        found = Baseline(told["compilers"], executed=told["executed"])
        for name, by_target in told["jobs"].items():
            for target, line in by_target.items():
                found.targets.setdefault(target, {})[name] = _parsed(line)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            f"{path}: cannot be read as a baseline ({error}); deepport compile --update writes one"
        ) from None
    return found


def write(found: Baseline, path: Path = PLACE) -> None:
    """A line for each job and target, in order, so that a change of one is a change of one line."""
    jobs: dict[str, dict[str, Kept]] = {}
    for target, rows in sorted(found.targets.items()):
        for name, row in rows.items():
            jobs.setdefault(name, {})[target] = row
    compilers = json.dumps(dict(sorted(found.compilers.items())))
    lines = ",\n".join(f" {json.dumps(name)}: {{\n{_lines(by_target)}\n }}" for name, by_target in sorted(jobs.items()))
    executed = json.dumps(found.executed, indent=1, sort_keys=True)
    files.write(path, f'{{\n"compilers": {compilers},\n"executed": {executed},\n"jobs": {{\n{lines}\n}}\n}}\n')


def _lines(by_target: Mapping[str, Kept]) -> str:
    return ",\n".join(f"  {json.dumps(target)}: {json.dumps(_packed(row))}" for target, row in by_target.items())


def _packed(row: Kept) -> list[Any]:
    return [row["reason"]] if "reason" in row else [*(row[n] for n in _NUMBERS), *row["instructions"]]


def _parsed(line: list[Any]) -> Kept:
    if len(line) == 1:
        return {"reason": str(line[0])}
    numbers, instructions = line[: len(_NUMBERS)], line[len(_NUMBERS) :]
    return {**dict(zip(_NUMBERS, numbers, strict=True)), "instructions": instructions}
