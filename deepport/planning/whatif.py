"""The same plan with one thing changed: number formats, Engram's place, sequences at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from deepport.planning.estimate import Estimate, Planner
from deepport.planning.sizes import Placement

PLACES: tuple[Placement, ...] = ("device", "host", "mmap")


@dataclass(frozen=True)
class Variant:
    """What is changed, as the command line would say it, and what comes of it; "" for the plan itself."""

    change: str
    estimate: Estimate


def variants(planner: Planner, estimate: Estimate, formats: Mapping[str, Planner]) -> Iterator[Variant]:
    """The plan first, then the model in other formats, in other places, and with fewer or more sequences."""
    chip, devices, load = estimate.chip, estimate.devices, estimate.load
    yield Variant("", estimate)
    for name, other in formats.items():
        yield Variant(f"--format {name}", other.estimate(chip, devices, load))
    if planner.transformer.config.engram is not None:
        for place in PLACES:
            if place != load.engram:
                yield Variant(f"--engram {place}", planner.estimate(chip, devices, replace(load, engram=place)))
    for batch in sorted({max(load.batch // 4, 1), load.batch * 4} - {load.batch}):
        yield Variant(f"--batch {batch}", planner.estimate(chip, devices, replace(load, batch=batch)))
