"""What a run has found so far, on disk: a killed run loses at most the case that it was at."""

from __future__ import annotations

import json
from pathlib import Path

from deepport.conformance.result import MutantResult, Report, Result


class Journal:
    """Lines of JSON beside the report to come: the report without results, then each result and mutant.

    A disk that fills up ends the journal and not the run; `problems` then says so. `deepport report show` reads a journal.
    """

    def __init__(self, path: Path | None) -> None:
        """`path`: of the journal; None keeps none."""
        self._path = path
        self.problems: list[str] = []

    def begin(self, head: Report) -> None:
        """Start over."""
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text("")
        self._append({"report": head.model_dump(mode="json")})

    def add(self, item: Result | MutantResult) -> None:
        kind = "result" if isinstance(item, Result) else "mutant"
        self._append({kind: item.model_dump(mode="json")})

    def _append(self, line: dict[str, object]) -> None:
        if self._path is None or self.problems:
            return
        try:
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            self.problems.append(f"{self._path}: the journal could not be written on: {error.strerror}")

    def remove(self) -> None:
        """The report is written."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
