"""What a run ends with: a few aligned lines, or one JSON object."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TextIO

from deepport.command.explain import served
from deepport.command.generation import Generation
from deepport.command.proof import unproven
from deepport.command.render import fields, scaled
from deepport.command.request import Place
from deepport.record import Record

if TYPE_CHECKING:
    from deepport_model import Model


@dataclass(frozen=True)
class Run:
    """A generation, and what it ran on."""

    name: str
    model: Model
    place: Place
    made: Generation
    record: Record
    host_calls: int
    load_seconds: float

    @property
    def peak(self) -> int:
        """Bytes on the device at most, weights included; on the CPU, of the whole process."""
        return self.model.backend.runtime.memory().peak

    def show(self, file: TextIO) -> None:
        made, on_host = self.made, f", {self.host_calls} calls on the host" if self.host_calls else ""
        fields(
            (
                ("first token", f"{made.first:.3f} s" if made.ids else "none came"),
                ("prefill", _rate(made.prefill_rate, made.prompt_tokens)),
                ("decode", _rate(made.decode_rate, len(made.ids))),
                ("peak memory", scaled(self.peak, "B")),
                ("device", f"{self.place.device} {self.place.facts.name}"),
                ("served by", served(self.record) + on_host),
                *(("conformance", line) for line in self._unproven()),
            ),
            file,
        )

    def _unproven(self) -> list[str]:
        """A warning where a kernel computed something that no conformance record on this machine says it can."""
        found = unproven(self.record, self.model.backend)
        if not found:
            return []
        command = f"deepport conform --device {self.place.backend}"
        return [f"no record here that {', '.join(found)} compute what they should; {command} makes one"]

    def as_json(self, text: bool) -> dict[str, Any]:
        made, dtype = self.made, str(self.model.transformer.dtype).removeprefix("torch.")
        device = {"backend": self.place.backend, "index": self.place.index, "name": self.place.facts.name}
        rows = self.record.as_json()
        return {
            "model": self.name,
            "dtype": dtype,
            "device": device,
            "text": made.text if text else None,
            "ids": made.ids,
            "prompt_tokens": made.prompt_tokens,
            "new_tokens": len(made.ids),
            "finish": made.finish,
            "seconds": {"load": self.load_seconds, "first_token": made.first, "decode": made.rest},
            "tokens_per_second": {"prefill": made.prefill_rate, "decode": made.decode_rate},
            "peak_memory_bytes": self.peak,
            "operators": len({row["operator"] for row in rows}),
            "references": self.record.references,
            "unproven_kernels": unproven(self.record, self.model.backend),
            "host_calls": self.host_calls,
            "served": rows,
            "versions": versions(self.place),
        }


def versions(place: Place) -> dict[str, str]:
    """Of deepport, Python, torch and what the device's probe found."""
    found = {"deepport": version("deepport"), "python": platform.python_version(), "torch": version("torch")}
    return found | dict(place.probe.versions)


def _rate(rate: float | None, tokens: int) -> str:
    return f"{rate:.1f} tokens/s ({tokens} tokens)" if rate is not None else f"- ({tokens} tokens)"
