"""A simulated accelerator: it computes like the CPU, and keeps a device's discipline better than any device (README.md).

`deepport run --device sim` runs the whole model on it. What it finds is evidence of our calls, E4; its numbers are the CPU's and
its times are nobody's. It is built with g++ against the installed torch, of one release, when it is first started.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deepport.backend import Device, Probe, Runtime
from deepport.errors import BackendUnavailable, BadInput
from deepport.probing import Cause, reason, torch_build
from deepport_sim.build import Missing, built, missing

if TYPE_CHECKING:
    from deepport.kernel import Kernel

DEVICES = 2
FORMATS = ("float32", "float16", "bfloat16", "fp8_e4m3", "fp8_e4m3fnuz", "mxfp4", "int8")
SETTINGS = "DEEPPORT_SIM"
"""The variable with settings other than the defaults, as `host-copy=error,implicit-sync=warn,memory=8e9`."""


@dataclass(frozen=True)
class Settings:
    """`memory` of each device in bytes; `policies` by rule, where they are not the rule's default."""

    memory: int = 16 << 30
    policies: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Settings:
        """BadInput where it is not NAME=VALUE,...; which rules there are only the device knows."""
        pairs = dict(entry.strip().partition("=")[::2] for entry in text.split(",") if entry.strip())
        memory = pairs.pop("memory", None)
        try:
            bytes_ = cls.memory if memory is None else int(float(memory))
        except ValueError:
            raise BadInput(f"{SETTINGS}: memory={memory} is no number of bytes, such as 8e9") from None
        if unknown := {r: p for r, p in pairs.items() if p not in ("allow", "warn", "error")}:
            rule, policy = next(iter(unknown.items()))
            raise BadInput(f"{SETTINGS}: {rule}={policy!r}: a rule's policy is one of: allow, warn, error")
        return cls(bytes_, pairs)


class SimBackend:
    name = "sim"
    device_type = "sim"
    simulates = ""

    def probe(self) -> Probe:
        build = torch_build()
        versions = {"torch": build.version} if build else {}
        if causes := [Cause(what, remedy) for what, remedy in missing(build)]:
            return Probe(versions=versions, reason=reason(causes))
        settings = Settings.parse(os.environ.get(SETTINGS, ""))
        device = Device("simulated accelerator", memory=settings.memory, formats=FORMATS)
        return Probe((device,) * DEVICES, versions, simulator="deepport_sim")

    def start(self) -> Runtime:
        try:
            library = built()
        except Missing as why:
            raise BackendUnavailable(f"sim: {why}") from why
        from deepport.runtime import TorchRuntime
        from deepport_sim import device

        settings = Settings.parse(os.environ.get(SETTINGS, ""))
        device.register(library)
        device.configure(settings.memory, settings.policies)
        return TorchRuntime("sim")

    def kernels(self) -> Sequence[Kernel]:
        from deepport_sim.kernels import kernels

        return kernels()


backend = SimBackend()
