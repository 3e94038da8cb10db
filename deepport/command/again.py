"""A run whose device failed, once more with each call waiting for the device, to say which call it was.

A device that runs behind its caller tells an error late, at some later call. So the process that was told becomes, by exec, one
that holds nothing of the device, neither its memory nor what the error has left of its driver; it starts the same command, on
the same prompt, with the variable under which every call waits (`deepport.backend.Runtime`), and says what that run came to.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, NoReturn

from deepport import backend, child
from deepport.command.terminal import INTERRUPTED, MORE, described, say
from deepport.errors import late

MARK = "DEEPPORT_AGAIN"
"""In the environment of the second run: there is no third."""

_PATIENCE = 60.0
"""Seconds that a second run may take, beside four times what the first took until it failed."""


@dataclass(frozen=True)
class Failure:
    """What the first run leaves behind.

    Attributes:
        text: of its error.
        arguments: of `deepport run`.
        prompt: the text that was read, from stdin it may be; "" where it is no text.
        variable: under which each call waits, as NAME=VALUE.
        limit: seconds that a second run may take.
    """

    text: str
    arguments: list[str]
    prompt: str
    variable: str
    limit: float


@contextmanager
def once_more(name: str, prompt: str | None) -> Iterator[None]:
    """Where a device fails inside that need not have failed in this call, this process ends as the report of a second run."""
    begin = time.monotonic()
    try:
        yield
    except Exception as error:
        if not late(error) or MARK in os.environ or not (variable := _variable(name)):
            raise
        arguments = sys.argv[2:] if sys.argv[1:2] == ["run"] else sys.argv[1:]
        limit = _PATIENCE + 4 * (time.monotonic() - begin)
        _become(Failure(described(error)[1].removesuffix(MORE), arguments, prompt or "", variable, limit))


def _variable(name: str) -> str:
    try:
        return getattr(backend.start(name).runtime, "blocking", "")
    except Exception:  # it was the start that failed
        return ""


def _become(failure: Failure) -> NoReturn:
    """Go on as `main` below, in this process and with nothing open but the standard streams."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    with tempfile.TemporaryFile() as file:
        file.write(json.dumps(asdict(failure)).encode())
        file.seek(0)
        os.dup2(file.fileno(), 0)
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the listing's own
            if int(descriptor.name) > 2:
                os.set_inheritable(int(descriptor.name), False)
    os.execve(sys.executable, [sys.executable, "-m", "deepport.command.again"], child.environment())


# The process that has become of it


def main() -> NoReturn:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))  # not before the second run has been ended
    failure = Failure(**json.load(sys.stdin))
    sys.stderr.write(f"the device failed; running once more with {failure.variable}, to see in which call ...\n")
    sys.stderr.flush()
    code = 1
    try:
        text = _again(failure)
    except KeyboardInterrupt:
        code, text = INTERRUPTED, f"{failure.text}; the second run, to see in which call, was interrupted"
    say(text)
    sys.exit(code)


def _again(failure: Failure) -> str:
    """What is to be said of both runs."""
    name, _, value = failure.variable.partition("=")
    with tempfile.TemporaryFile() as prompt, tempfile.TemporaryFile() as said:
        prompt.write(failure.prompt.encode(errors="surrogateescape"))
        prompt.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-m", "deepport.run", *failure.arguments],
            env=child.environment(**{name: value, MARK: "1"}),
            stdin=prompt,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,  # Ctrl-C is for this process, which then ends that one
        )
        try:
            code = process.wait(failure.limit)
        except subprocess.TimeoutExpired:
            return f"{failure.text}; a second run, with {failure.variable}, was not done in {failure.limit:.0f} s"
        finally:
            child.end(process)
        return _compared(failure, code, _line(said) or child.obituary(process, said))


def _line(said: IO[bytes]) -> str:
    """What a command says of its failure, "" where it says nothing."""
    said.seek(0)
    lines = said.read().decode(errors="replace").splitlines()
    return next((line.removeprefix("deepport: ") for line in reversed(lines) if line.startswith("deepport: ")), "")


def _compared(failure: Failure, code: int, found: str) -> str:
    if code == 0:
        return (
            f"{failure.text}; a second run, in which each call waited for the device ({failure.variable}), did not fail: "
            "a wait is likely to be missing"
        )
    if code == 1:
        advice = f"rerun with {failure.variable} and --traceback"
        return f"{found.removesuffix(MORE)}; so says a second run, in which each call waited for the device; {advice}"
    return f"{failure.text}; a second run, with {failure.variable}, ended otherwise: {found}"


if __name__ == "__main__":
    main()
