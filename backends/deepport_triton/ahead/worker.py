"""A process that compiles: `python worker.py FD`, asked by `deepport_triton.ahead.run` over the socket FD.

It never interprets, and runs with either Triton: the one for GPUs, or triton-ascend in an environment of its own. There our
packages are found in the folders of DEEPPORT_PATH, behind all others: one of them may be the site-packages of the other Triton.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

_LONGEST = 400
_COMPILERS = {"npu": "ascend", "x86": "x86"}
"""Their modules here; `gpu` is that of all others."""


def compiled(job: dict[str, Any], target: dict[str, Any]) -> dict[str, Any]:
    """The facts of one job for one target (`deepport_triton.ahead.job`, `.target`), or why the compiler refuses it."""
    function = getattr(import_module(job["module"]), job["function"])
    begin = time.perf_counter()
    compiler = import_module(f"deepport_triton.ahead.{_COMPILERS.get(target['compiler'], 'gpu')}")
    try:
        found: dict[str, Any] = compiler.compiled(function, job, target)
    except Exception as error:  # whatever a compiler raises
        found = {"reason": _reason(error)}
    return {"seconds": time.perf_counter() - begin, **found}


def _reason(error: BaseException) -> str:
    """What the compiler found wrong, of the pages that it writes: its last word but for that it failed, else its own crash."""
    while error.__cause__ is not None:  # an error inside of functions that are called has their sources around it
        error = error.__cause__
    text = str(error)
    if crash := re.search(r"Assertion `.*' failed", text):
        return f"the compiler crashes: {crash[0][:_LONGEST]}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if "error:" in line and "Failed to run" not in line]
    said = told[-1] if told else f"{type(error).__name__}: {lines[-1] if lines else ''}"
    return re.sub(r"(?:/[\w.+-]+)*/(?=[\w.+-]+\W?:\d)", "", said)[:_LONGEST]


def main(descriptor: int) -> None:
    with Connection(descriptor) as asking:
        while True:
            try:
                message = json.loads(asking.recv_bytes())
            except EOFError:
                return
            asking.send_bytes(json.dumps({"frames": 0, **compiled(message["job"], message["target"])}).encode())


if __name__ == "__main__":
    sys.path += filter(None, os.environ.get("DEEPPORT_PATH", "").split(os.pathsep))
    main(int(sys.argv[1]))
