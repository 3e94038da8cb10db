"""What the design of Engram promises of memory, beside what it comes to with the model and the chips at hand."""

from __future__ import annotations

from dataclasses import dataclass, replace

from deepport.planning.estimate import Estimate, Planner, needed
from deepport.planning.sizes import TABLES, parameters

HALF, PER_HUNDRED_BILLION, SHARE = 0.5, 200e9, 0.13
"""The promises: tables on the host save half the devices' memory; 100 billion parameters take 200 GB there, which is 13% more
memory of a system."""


@dataclass(frozen=True)
class Claims:
    """Engram's tables moved from the devices to the host.

    Attributes:
        parameters: of the tables; `bytes` that they take.
        before, after: bytes of all devices' memory.
        host_memory: bytes of all hosts; None where the profile does not say.
    """

    parameters: int
    bytes: int
    before: int
    after: int
    host_memory: float | None

    @property
    def saved(self) -> float:
        """The part of the devices' memory."""
        return 1 - self.after / self.before

    @property
    def per_hundred_billion(self) -> float:
        """Bytes of a table of 100 billion parameters."""
        return self.bytes * 100e9 / self.parameters

    @property
    def share(self) -> float | None:
        """The part of the hosts' memory."""
        return None if self.host_memory is None else self.bytes / self.host_memory


def claims(planner: Planner, estimate: Estimate) -> Claims | None:
    """None without Engram."""
    count = parameters(planner.transformer)[1]
    if not count:
        return None
    chip, devices = estimate.chip, estimate.devices
    here, there = (planner.sizes(replace(estimate.load, engram=place)) for place in ("device", "host"))
    host = chip.value("host_memory")
    return Claims(
        count, sum(part.bytes for part in here.parts if part.name == TABLES),
        devices * needed(chip, devices, here), devices * there.device(devices),
        None if host is None else host * chip.hosts(devices),
    )  # fmt: skip
