"""`deepport report show | diff | verify`: what to do with the file of a conformance run. Needs no device."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepport.command import options
from deepport.command.render import show
from deepport.command.terminal import EXIT_CODES, failures, reader_may_leave

if TYPE_CHECKING:
    from deepport.report.diff import Difference

app = typer.Typer(
    no_args_is_help=True,
    help="Show, compare and check the files that deepport conform --json writes. None of this needs a device.",
    epilog=EXIT_CODES,
)

_File = Annotated[Path, typer.Argument(metavar="FILE", help="A report, or the .journal that a killed run left.")]
_Out = Path | None
_HTML = Annotated[_Out, typer.Option("--html", metavar="PATH", help="Write one page that needs nothing else.")]
_JUNIT = Annotated[_Out, typer.Option("--junit", metavar="PATH", help="Write JUnit XML, for CI.")]
_MARKDOWN = Annotated[
    _Out, typer.Option("--markdown", metavar="PATH", help="Write Markdown, for a comment or a README.")
]
_JSON = Annotated[_Out, typer.Option("--json", metavar="PATH", help="Write every change as JSON.")]

_SHOW_EXAMPLES = f"""
Examples:

  deepport report show cuda.json

  deepport report show cuda.json --html cuda.html --junit cuda.xml

  deepport report show cuda.json.journal --html what-was-left.html

{EXIT_CODES}
"""
_DIFF_EXAMPLES = f"""
Examples:

  deepport report diff driver-570.json driver-580.json

  deepport report diff main.json branch.json --json changes.json

{EXIT_CODES}
"""
_VERIFY_EXAMPLES = f"""
Examples:

  deepport report verify cuda.json

{EXIT_CODES}
"""


@app.command("show", epilog=_SHOW_EXAMPLES)
def show_report(
    file: _File,
    html: _HTML = None,
    junit: _JUNIT = None,
    markdown: _MARKDOWN = None,
    traceback: options.Traceback = False,
) -> None:
    """Show a stored report again, also one of a run that was interrupted or killed.

    It goes to the terminal, and to every file that is named. Exit code 0 says that it was shown, not that the backend conforms.
    """
    with failures(traceback):
        from deepport.report import files, outputs, terminal

        report = files.read(file)
        with reader_may_leave():
            terminal.render(report, sys.stdout)
        outputs.write(report, {"html": html, "junit": junit, "markdown": markdown})


@app.command(epilog=_DIFF_EXAMPLES)
def diff(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="A report.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="A later one, or of another chip, driver or version.")],
    json_path: _JSON = None,
    traceback: options.Traceback = False,
) -> None:
    """Show what changed from one report to another, and end with exit code 1 if anything regressed.

    Regressions: a worse status, a reference where a kernel served, a case that passed and is gone though it was asked for, a
    mutant or a null kernel that now survives, a worse verdict. Other code, other margins and other times are told, and are no
    regressions.
    """
    with failures(traceback):
        from deepport.report import files
        from deepport.report.diff import diff as compare

        found = compare(files.read(before), files.read(after))
        _show_difference(found)
        if json_path is not None:
            files.write(json_path, json.dumps(found.as_json(), indent=1) + "\n")
        raise typer.Exit(1 if found.regressed else 0)


def _show_difference(found: Difference) -> None:
    from deepport.report.diff import KINDS, grouped
    from deepport.report.words import count, printable

    for kind, title in KINDS.items():
        changes = found.of(kind)
        if not changes:
            continue
        rows = [
            (printable(c.operator), str(n), printable(c.what, 100), printable(c.before, 200), printable(c.after, 200))
            for c, n in grouped(changes)
        ]
        show(("operator", ">n", "what (the first)", "before", "after"), rows, sys.stdout, f"{title}: {len(changes)}")
        sys.stdout.write("\n")
    number = len(found.of("regression"))
    sys.stdout.write(f"{count(number, 'regression') if number else 'no regression'}\n")


@app.command(epilog=_VERIFY_EXAMPLES)
def verify(file: _File, traceback: options.Traceback = False) -> None:
    """Check that a report is whole, and that the kernels installed here are those that it judged.

    One line for each finding. Exit code 1: the file was changed or never finished, or a kernel is other code here. Exit code 3:
    the backend is not installed here, so its kernels could not be compared. Equal hashes show that nothing changed by accident.
    They are no signature: whoever can write a report can write its hashes, too.
    """
    with failures(traceback):
        from deepport.report import files
        from deepport.report.verify import verify as check
        from deepport.report.words import printable

        found = check(files.read(file), _installed)
        sys.stdout.writelines(f"{f.state:<8} {printable(f.text)}\n" for f in found)
        states = {f.state for f in found}
        raise typer.Exit(1 if "WRONG" in states else 3 if "unknown" in states else 0)


def _installed(backend: str) -> Mapping[str, str]:
    # Starts the backend, and with it torch: only for this.
    from deepport.conformance.environment import installed

    return installed(backend)
