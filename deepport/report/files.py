"""Report files: read whole or refused in one line, written whole or not at all."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from deepport.conformance.result import Report
from deepport.errors import BadInput
from deepport.report.parse import is_journal, journal_of, report_of

LARGEST = 32 << 20
"""Bytes of a file that is read, some 8,000 results; parsed, the worst file takes about thirty times as much memory."""


def read(path: Path) -> Report:
    """A report, also from the journal of a run that was killed.

    Raises:
        BadInput: the file is absent, too large, no report, of another version, truncated, or a field is wrong, by its name.
    """
    text = _read(path)
    return (journal_of if is_journal(text) else report_of)(text, str(path))


def read_journal(path: Path) -> Report:
    """The report of a run that was killed, from what it had noted: `complete` is false, and the last line may be torn.

    Raises:
        BadInput: as `read`, and for a damaged line that is not the last.
    """
    return journal_of(_read(path), str(path))


def write(path: Path, text: str) -> None:
    """Write a file. An OSError (a full disk) names it, and leaves what was there."""
    try:
        if path.exists() and not path.is_file():  # /dev/stdout has no place for a second file beside it
            path.write_text(text, encoding="utf-8")
        else:
            _replace(path.resolve(), text)
    except OSError as error:
        error.filename = str(path)
        raise


def _replace(path: Path, text: str) -> None:
    fresh = path.with_name(f".{uuid.uuid4().hex}.new")
    try:
        with fresh.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST + 1)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error
    if len(text) > LARGEST:
        raise BadInput(f"{path}: is larger than {LARGEST >> 20} MiB; no report of deepport conform is")
    return text
