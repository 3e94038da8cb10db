"""What a command was asked for: a device that is there, a policy, a prompt. Imports no torch."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deepport import backend
from deepport.backend import Device, Probe
from deepport.errors import BackendUnavailable, BadInput


@dataclass(frozen=True)
class Place:
    """A device that is there. `device` is what `deepport.load` takes."""

    backend: str
    index: int
    probe: Probe

    @property
    def device(self) -> str:
        return f"{self.backend}:{self.index}"

    @property
    def facts(self) -> Device:
        return self.probe.devices[self.index]


def find_device(device: str) -> Place:
    """What `--device` means; BackendUnavailable where it is absent."""
    kind, index = numbered(device)
    name = backend.choose(kind)
    probe = backend.get(name).probe()
    if not probe.devices:
        raise BackendUnavailable(f"{name}: {probe.reason}")
    if index >= len(probe.devices):
        raise BackendUnavailable(f"{name}: there is no device {index}; the last is {len(probe.devices) - 1}")
    return Place(name, index, probe)


def numbered(device: str) -> tuple[str, int]:
    """The two parts of `--device NAME[:INDEX]`."""
    kind, _, index = device.partition(":")
    if index and not index.isdecimal():
        raise BadInput(f"--device {device}: what follows the colon is a device number, as in {kind}:0")
    return kind, int(index or 0)


@dataclass(frozen=True)
class Policy:
    """`--fallback` and its budget (`deepport.policy.Session`)."""

    fallback: Literal["device", "error", "host"] = "device"
    host: frozenset[str] = frozenset()
    host_budget: int = 0

    @classmethod
    def parse(cls, text: str, budget: int) -> Policy:
        """Raises BadInput where the text is no policy; that the operators exist is for `check`, which needs torch."""
        kind, _, names = text.partition(":")
        host = frozenset(filter(None, names.split(",")))
        if budget and kind != "host":
            raise BadInput("--fallback-budget counts calls to the host; it goes with --fallback host:...")
        if kind == "host" and host:
            return cls("host", host, budget)
        if text == "device":
            return cls("device")
        if text == "error":
            return cls("error")
        raise BadInput(f"--fallback {text}: is none of: device, error, host:operator,operator,...")

    def check(self) -> None:
        """Refuse operators that do not exist."""
        import deepport.ops  # noqa: F401  (declares the operators)
        from deepport.op import operators

        if unknown := sorted(self.host - operators.keys()):
            known = ", ".join(name for name in sorted(operators) if not name.endswith("_backward"))
            raise BadInput(f"--fallback: no operator is called {unknown[0]!r}; there are: {known}")

    def session(self) -> dict[str, Any]:
        """Arguments of a Session."""
        return {"fallback": self.fallback, "host": self.host, "host_budget": self.host_budget}


@dataclass(frozen=True)
class Prompt:
    """What is to be continued: a text, token ids, or a number of random ids."""

    text: str | None = None
    ids: tuple[int, ...] | None = None
    random: int | None = None

    @classmethod
    def read(cls, text: str | None, file: Path | None, ids: str | None, random: int | None) -> Prompt:
        """The one that is given, else what is piped in; BadInput where there are several, or none."""
        options = {"--prompt": text, "--file": file, "--prompt-ids": ids, "--random-prompt": random}
        given = [name for name, value in options.items() if value is not None]
        if len(given) > 1:
            raise BadInput(f"{' and '.join(given)} are both prompts; give one")
        if ids is not None:
            return cls(ids=_ids(ids))
        if random is not None:
            return cls(random=random)
        found = text if text is not None else _text(file)
        if not found:
            raise BadInput("the prompt is empty; the model needs something to continue")
        return cls(found)


def _ids(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise BadInput(f"--prompt-ids {text!r}: must be numbers with commas between them, as in 1,2,3") from None


def _text(file: Path | None) -> str:
    """Of a file, or of stdin."""
    if file is None and sys.stdin.isatty():
        raise BadInput("there is no prompt; give --prompt TEXT or --file PATH, or pipe a text in")
    try:
        return (sys.stdin.buffer.read() if file is None else file.read_bytes()).decode()
    except OSError as error:
        raise BadInput(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{file or 'stdin'}: not UTF-8 at byte {error.start}") from None
