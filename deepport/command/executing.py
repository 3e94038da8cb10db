"""One run of `deepport compile --execute`: watched, shown, and held against the baseline."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence

from deepport.command.compiling import Asked, collected, known
from deepport.command.render import show
from deepport.command.terminal import INTERRUPTED, reader_may_leave, say
from deepport.conformance.run import check_operators
from deepport.errors import BadInput
from deepport_triton.ahead import baseline, execute, versions
from deepport_triton.ahead.execute import EVIDENCE, Executed
from deepport_triton.ahead.target import NPUS, Target, find

BASIS = "executed on this processor (x86) by the IR that triton-ascend {version} makes; no NPU and no simulator of one ran it"


def run(asked: Asked) -> int:
    """Execute, show, compare; the exit code."""
    targets = find(asked.targets) if asked.targets else NPUS
    if gpus := [t.name for t in targets if t not in NPUS]:
        raise BadInput(f"--execute runs what Ascend's compiler is given; {gpus[0]} is none of {_listed(NPUS)}")
    check_operators("--operator", asked.operators)
    execute.tools()
    compilers = versions.compilers(targets)
    before = known(asked, compilers)
    rows, interrupted = _executed(asked, targets)
    changes = list(before.changes(rows)) if asked.check else []
    with reader_may_leave():
        if asked.as_json:
            sys.stdout.write(json.dumps(_record(rows, compilers, interrupted, changes)) + "\n")
        else:
            _show(asked, rows, compilers, changes)
    if interrupted:
        say("interrupted: what is above was executed")
        return INTERRUPTED
    if asked.update:
        before.take_executed(rows)
        baseline.write(before)
        return 0
    return int(bool(changes) if asked.check else any(row.failed for row in rows))


def _executed(asked: Asked, targets: Sequence[Target]) -> tuple[list[Executed], bool]:
    from deepport_triton.kernels import KERNELS

    names = [k.operator for k in KERNELS if not asked.operators or k.operator in asked.operators]
    if not names:
        raise BadInput(f"--operator {asked.operators[0]}: no Triton kernel computes it")
    tasks = execute.tasks(names, targets)
    places = {task: place for place, task in enumerate(tasks)}
    rows, interrupted = collected(execute.run(tasks, asked.jobs), len(tasks), "executing", "cases")
    return sorted(rows, key=lambda r: places[r.task]), interrupted


def _record(
    rows: Sequence[Executed], compilers: dict[str, str], interrupted: bool, changes: list[str]
) -> dict[str, object]:
    cases = [
        {"operator": r.task.operator, "case": r.task.case, "target": r.task.target, "reason": r.reason, "failed": r.failed}
        for r in rows
    ]  # fmt: skip
    return {
        "evidence": EVIDENCE, "compilers": compilers, "interrupted": interrupted, "executed": cases, "worse": changes,
    }  # fmt: skip


def _show(asked: Asked, rows: Sequence[Executed], compilers: dict[str, str], changes: Sequence[str]) -> None:
    show(
        ("operator", "target", ">executed", ">passed", ">cases", "accepted only, or not: why"), _lines(rows), sys.stdout
    )
    sys.stdout.write(f"\n{BASIS.format(version=compilers['triton-ascend'])} (evidence {EVIDENCE})\n")
    if asked.check:
        sys.stdout.write("".join(f"changed: {line}\n" for line in changes) or "nothing is other than in the baseline\n")


def _lines(rows: Sequence[Executed]) -> Iterator[tuple[str, ...]]:
    """A line for each operator and target."""
    for operator, target in dict.fromkeys((r.task.operator, r.task.target) for r in rows):
        mine = [r for r in rows if (r.task.operator, r.task.target) == (operator, target)]
        why = Counter(r.told for r in mine if r.told)
        ran = [r for r in mine if not r.reason]
        told = "; ".join(f"{count} {reason}" for reason, count in why.items())
        yield operator, target, str(len(ran)), str(sum(not r.failed for r in ran)), str(len(mine)), told


def _listed(targets: Sequence[Target]) -> str:
    return ", ".join(t.name for t in targets)
