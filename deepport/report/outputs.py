"""A report in every form that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Literal

from deepport.conformance.result import Report
from deepport.report import files

Form = Literal["json", "junit", "markdown", "html"]


def write(report: Report, paths: Mapping[Form, Path | None]) -> None:
    """Write the forms that have a path: the record first, for the others can be made from it."""
    for form, path in paths.items():
        if path is not None:
            files.write(path, rendered(report, form))


def rendered(report: Report, form: Form) -> str:
    if form == "json":
        return report.model_dump_json(indent=1)
    # Imported when asked for: a plot's library alone takes longer to import than a small report to make.
    text: str = import_module(f"deepport.report.{form}").render(report)
    return text
