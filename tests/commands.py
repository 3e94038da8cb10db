"""How a command ended; what the fixture `command` gives."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ended:
    """Exit code, stdout and stderr."""

    code: int
    out: str
    err: str


Deepport = Callable[..., Ended]
"""`command("run", "--prompt", "x", stdin="")`: `deepport run --prompt x` in this process."""
