"""A case of a report, found by its id and run again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from platformdirs import user_data_path
from torch import Tensor

from deepport.command.request import find_device
from deepport.conformance import bundle, grids, store
from deepport.conformance.crew import CaseTask, Crew, Item, Offered, place_of
from deepport.conformance.oracle import truth
from deepport.conformance.pool import Slot
from deepport.conformance.result import Report, Result
from deepport.conformance.run import open_device
from deepport.conformance.trial import drawn, laid_out
from deepport.errors import BadInput
from deepport.op import operators
from deepport.report.files import read


def find(id: str, path: Path | None) -> tuple[Result, Report]:
    """The result of this id, in the report or in those that the machine keeps; BadInput where there is none."""
    looked = [path] if path else []
    for where, report in [(path, read(path))] if path else _kept():
        looked.append(where)
        for result in report.results:
            if result.id == id:
                return result, report
    places = ", ".join(dict.fromkeys(map(str, looked))) or "no report is kept on this machine; --report FILE names one"
    raise BadInput(f"no case has the id {id!r} (looked at: {places})")


def _kept() -> Iterator[tuple[Path, Report]]:
    home = user_data_path("deepport") / "conformance"
    for folder in sorted(home.iterdir()) if home.is_dir() else ():
        yield from store.reports(folder.name)


def again(then: Result, report: Report, seconds: float) -> tuple[Result, list[Tensor]]:
    """The same case by the same implementation, in worker processes as in a whole run; and its outputs where it had some."""
    found = find_device(f"{report.backend}:{report.device.index}")
    slot, got = Slot(len(os.sched_getaffinity(0)), seconds), list[Tensor]()
    try:
        open_device(slot, found.backend, found.index)
        task = CaseTask(then.operator, then.case, then.implementation)
        items = list(Crew(place_of(found.backend, found.index), [slot], [task], got.extend).items())
    finally:
        slot.close()
    for item in items:
        if isinstance(item, Result):
            return item, got
    raise BadInput(f"{then.implementation} does not take this case any more; {_who(items)}")


def keep(folder: Path, name: str, result: Result, got: list[Tensor]) -> None:
    """Write a bundle of a case of the backend `name`."""
    operator = operators[result.operator]
    case = grids.find(operator, result.case)
    arguments = drawn(operator, case, result.case.seed)
    bundle.write(
        folder,
        bundle.Bundle(
            operator=result.operator,
            backend=name,
            implementation=result.implementation,
            arguments=laid_out(arguments) if case.variant == "strided" else arguments,
            expected=truth(operator, arguments),
            got=got,
            gates=result.gates,
            case=result.case,
        ),
    )


def _who(items: list[Item]) -> str:
    takers = [name for item in items if isinstance(item, Offered) for name in item.implementations]
    return f"{', '.join(takers)} would serve it"
