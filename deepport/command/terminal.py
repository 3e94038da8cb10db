"""What our commands share: failures become one line and an exit code, and a terminal shows what is going on."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from typer.exceptions import TyperException

from deepport.errors import DeepportError, exhausted

INTERRUPTED = 130
"""What shells expect of a process that Ctrl-C ended."""

MORE = "; rerun with --traceback"
"""The end of a line that is no whole explanation."""

EXIT_CODES = (
    "Exit codes: 0 done, 1 failed, 2 bad input, 3 device absent, 4 unsupported by the device, "
    "5 fallback budget exceeded, 130 interrupted."
)


def main(app: typer.Typer) -> NoReturn:
    """Run a command line to its exit code."""
    # Each backend imports its vendor's package itself; torch's autoload of one that is broken would fail `import torch`.
    os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a character shows that there is one
    try:
        sys.exit(app(standalone_mode=False))
    except TyperException as error:  # an unknown option, a value of the wrong type
        say(f"{error.format_message()} (--help shows what there is)")
        sys.exit(error.exit_code)


@contextmanager
def failures(traceback: bool) -> Iterator[None]:
    """Ends the command with one line on stderr and the exit code of what went wrong inside; `traceback` shows it whole."""
    try:
        yield
        sys.stdout.flush()
    except (typer.Exit, TyperException):
        raise
    except BrokenPipeError:  # `| head`: the reader has what it wanted
        _silence()
        raise typer.Exit(0) from None
    except (Exception, KeyboardInterrupt) as error:
        if traceback:
            raise
        code, text = described(error)
        say(text)
        raise typer.Exit(code) from None


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """Writing to stdout inside ends where its reader has gone (`| head`); what comes after it, files say, goes on."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _silence()


def _silence() -> None:
    # Python flushes stdout once more as it ends, and would complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def described(error: BaseException) -> tuple[int, str]:
    """The exit code and the line."""
    if isinstance(error, DeepportError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted"
    text = " ".join(str(error).split())
    # The call that failed, as deepport.record.called tells it.
    where = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
    if exhausted(error):
        return 1, f"out of memory: {text}{where}; a smaller --chunk needs less"
    if isinstance(error, OSError):  # a full disk, a file that may not be read
        return 1, text
    return 1, f"internal error: {type(error).__name__}: {text}{where}{MORE}"


def say(text: str) -> None:
    sys.stderr.write(f"deepport: {text}\n")


@contextmanager
def progress(what: str, unit: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr while inside, fed with `(done, total)` in `unit` (bytes or tokens); None where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    counted = (DownloadColumn(),) if unit == "bytes" else (MofNCompleteColumn(), TextColumn(unit))
    columns = (TextColumn("{task.description}"), BarColumn(), *counted, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
