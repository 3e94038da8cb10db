"""What would make a model fit, and how much room there is: found by asking for the sizes again, not by rules of thumb."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from deepport.planning.estimate import Estimate, Load, Planner, fits
from deepport.planning.sizes import TABLES

_MOST = 1 << 20
"""Devices, or sequences, beyond which nobody looks."""


@dataclass(frozen=True)
class Remedy:
    """One change after which everything fits, as one would say it, and the bytes that each device then holds."""

    change: str
    needed: int


def remedies(planner: Planner, estimate: Estimate, formats: Mapping[str, Planner]) -> list[Remedy]:
    """Each alone would do; `formats` are the model in other number formats. Empty where it fits, or nothing alone helps."""
    if estimate.fits is not False:
        return []
    load, found = estimate.load, []
    if devices := more_devices(planner, estimate):
        found.append(Remedy(f"{devices} devices", planner.sizes(load).device(devices)))
    for name, other in formats.items():
        sizes = other.sizes(load)
        if fits(estimate.chip, estimate.devices, sizes):
            found.append(Remedy(f"--format {name}", sizes.device(estimate.devices)))
    if load.engram == "device" and any(part.name == TABLES for part in estimate.sizes.parts):
        found += _if_fits(planner, estimate, replace(load, engram="host"), "--engram host")
    if batch := largest_batch(planner, estimate):
        found += _if_fits(planner, estimate, replace(load, batch=batch), f"--batch {batch}")
    if context := largest_context(planner, estimate):
        found += _if_fits(planner, estimate, replace(load, context=context), f"--context {context}")
    return found


def more_devices(planner: Planner, estimate: Estimate) -> int:
    """The least number of devices that all fits on; 0 where no number is enough, or their memory is unknown."""
    sizes = planner.sizes(estimate.load)
    return _least(lambda devices: bool(fits(estimate.chip, devices, sizes)), _MOST)


def largest_batch(planner: Planner, estimate: Estimate) -> int:
    """The most sequences that fit, their context as it is; 0 for none."""
    return _largest(planner, estimate, lambda n: replace(estimate.load, batch=n), _MOST)


def largest_context(planner: Planner, estimate: Estimate) -> int:
    """The longest context that fits, their number as it is, in steps of 1,024 tokens; 0 for none."""
    most = planner.transformer.config.max_position_embeddings // 1024
    return 1024 * _largest(planner, estimate, lambda n: replace(estimate.load, context=1024 * n), most)


def _if_fits(planner: Planner, estimate: Estimate, load: Load, change: str) -> list[Remedy]:
    sizes = planner.sizes_like(load, estimate)
    return [Remedy(change, sizes.device(estimate.devices))] if fits(estimate.chip, estimate.devices, sizes) else []


def _largest(planner: Planner, estimate: Estimate, load: Callable[[int], Load], most: int) -> int:
    def too_much(n: int) -> bool:
        return not fits(estimate.chip, estimate.devices, planner.sizes_like(load(n), estimate))

    if estimate.fits is None:
        return 0
    first = _least(too_much, most)
    return (first or most + 1) - 1


def _least(holds: Callable[[int], bool], most: int) -> int:
    """The least n from 1 to `most` of which something holds that holds of all larger ones, too; 0 for none."""
    high = 1
    while high < most and not holds(high):
        high = min(2 * high, most)
    if not holds(high):
        return 0
    low = high // 2 + 1 if high > 1 else 1
    low = min(low, high)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return high
