"""The least time that a step takes on a chip: each call's bytes and arithmetic over the chip's rates.

Every operator is divided evenly among the devices and costs nothing to divide: no transfers between them, no waiting. What a
rate says nothing about, because it is unknown, takes no time: the bound is then looser, and still one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from deepport.chips.profile import Profile
from deepport.planning.trace import GATHER, Call

MEMORY, LAUNCH, LINK, UNKNOWN = "memory", "launch", "host link", "unknown"


@dataclass(frozen=True)
class Timed:
    """A call's least time, and what it is the time of: `memory`, `compute int8`, `launch`; `unknown` where it is nothing."""

    call: Call
    seconds: float
    by: str


def bound(calls: Iterable[Call], chip: Profile, devices: int) -> list[Timed]:
    """The calls' least times on so many devices. Memory and arithmetic overlap; a launch precedes both."""
    found = list(calls)
    read = _Reading(chip, sum(c.state for c in found if c.operator != GATHER) / devices)
    return [_timed(call, chip, devices, read) for call in found]


class _Reading:
    """How long it takes to read from the device's memory, given all that a step reads.

    What the last level of cache holds of that may have stayed there from the step before, and takes its time, or none.
    """

    def __init__(self, chip: Profile, step: float) -> None:
        bandwidth = chip.value("bandwidth")
        self._rows = sorted((row, n.value) for row, n in chip.gather.items())
        self._bandwidth = bandwidth or float("inf")
        held = min(chip.value("cache") or 0.0, step)
        from_cache = held / max(chip.cache_bandwidth.value, self._bandwidth) if chip.cache_bandwidth else 0.0
        self._each = ((step - held) / self._bandwidth + from_cache) / step if step else 0.0

    def seconds(self, call: Call, devices: int) -> float:
        if call.operator == GATHER:
            rate = next((rate for row, rate in self._rows if row >= call.row), self._bandwidth)
            return call.state / devices / rate
        return call.state / devices * self._each


def _timed(call: Call, chip: Profile, devices: int, read: _Reading) -> Timed:
    fastest = chip.fastest(call.element)
    needs = [(read.seconds(call, devices), MEMORY)]
    if fastest is not None:
        needs.append((call.flops / devices / fastest[1], f"compute {fastest[0]}"))
    work, by = max(needs)
    launch = chip.value("launch") or 0.0
    if not work + launch:
        return Timed(call, 0.0, UNKNOWN)
    return Timed(call, work + launch, by if work >= launch else LAUNCH)


def seconds(timed: Iterable[Timed]) -> float:
    return sum(t.seconds for t in timed)


def shares(timed: Iterable[Timed], waiting: float = 0.0) -> dict[str, float]:
    """What part of a step's time each limit is, the largest first; `waiting`: seconds for the host link."""
    found: dict[str, float] = defaultdict(float)
    for t in timed:
        found[t.by] += t.seconds
    if waiting:
        found[LINK] += waiting
    total = sum(found.values())
    return dict(sorted(((by, s / total) for by, s in found.items() if s), key=lambda pair: -pair[1]))


@dataclass(frozen=True)
class Operator:
    """One operator over a step. `by`: what bounds most of its time."""

    name: str
    calls: int
    flops: float
    bytes: float
    seconds: float
    by: str


def operators(timed: Iterable[Timed]) -> list[Operator]:
    """By operator and what its weights consist of, the slowest first."""
    groups: dict[tuple[str, str], list[Timed]] = defaultdict(list)
    for t in timed:
        groups[t.call.operator, t.call.element].append(t)
    found = [
        Operator(
            f"{name} {element}", len(group), sum(t.call.flops for t in group), sum(t.call.state for t in group),
            seconds(group), next(iter(shares(group)), UNKNOWN),
        )
        for (name, element), group in groups.items()
    ]  # fmt: skip
    return sorted(found, key=lambda o: (-o.seconds, o.name))
