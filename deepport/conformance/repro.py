"""A case of a report, found by its id and run again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from platformdirs import user_data_path

from deepport import backend
from deepport.command.request import find_device
from deepport.conformance import store
from deepport.conformance.crew import CaseTask, Crew, Item, Offered, Place
from deepport.conformance.pool import Slot
from deepport.conformance.result import Report, Result
from deepport.conformance.run import open_device
from deepport.errors import BadInput
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


def rerun(then: Result, report: Report, seconds: float) -> Result:
    """The same case by the same implementation, in worker processes as in a whole run."""
    found = find_device(f"{report.backend}:{report.device.index}")
    place = Place(found.backend, found.index, backend.get(found.backend).device_type, report.evidence)
    slot = Slot(len(os.sched_getaffinity(0)), seconds)
    try:
        open_device(slot, found.backend, found.index)
        items = list(Crew(place, [slot], [CaseTask(then.operator, then.case, then.implementation)]).items())
    finally:
        slot.close()
    for item in items:
        if isinstance(item, Result):
            return item
    raise BadInput(f"{then.implementation} does not take this case any more; {_who(items)}")


def _who(items: list[Item]) -> str:
    takers = [name for item in items if isinstance(item, Offered) for name in item.implementations]
    return f"{', '.join(takers)} would serve it"
