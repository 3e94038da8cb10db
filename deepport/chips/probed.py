"""The profile of a machine that is at hand, from measurements: of each limit the most that any of some probes gave."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor

from deepport import backend, ops
from deepport.bench import machine
from deepport.bench.limits import Limits
from deepport.bench.peak import GATHERED, MEMORY, gather_name, gemm_name
from deepport.bench.run import peaks
from deepport.bench.timing import Stopwatch
from deepport.chips.mapped import MappedFile
from deepport.chips.profile import Arithmetic, Number, Profile, Source
from deepport.graph import Repeated
from deepport.policy import Session
from deepport.runtime import current

SOURCE = "probe"
_CALLS = 256
"""Calls of an operator that does next to nothing, one after another."""
_COPIED = 64 << 20
"""Bytes that are copied from the host at once."""
_GEMMS: tuple[Arithmetic, ...] = ("float32", "bfloat16", "int8")


class Prober:
    """Probes of one device. Each call of `round` probes everything once more; a file's rows where a folder for it is named.

    A shared machine's limits change within seconds: a bound that shall hold needs the most that they ever were.
    """

    def __init__(self, name: str, index: int, device: str, folder: Path | None = None) -> None:
        self.backend, self.name = name, device
        self.started = backend.start(name)
        self._device = current(self.started.device_type, index)
        caches = machine.caches()
        self._caches = caches if self._device.type == "cpu" else ()
        self._stopwatch = Stopwatch(self.started.runtime)
        self._limits = Limits(peaks(name, self._device, machine.beyond(caches, self._device.type)), self._stopwatch)
        self._launches: list[float] = []
        self._copies: list[float] = []
        self._file = MappedFile(folder) if folder is not None else None
        self._rows: dict[int, list[float]] = {}

    def round(self) -> None:
        self._limits.probe_every()
        self._launches.append(_launch(self._device, self._stopwatch))
        if self._device.type != "cpu":
            self._copies.append(_COPIED / _copy(self._device, self._stopwatch))
        if self._file is not None:
            for row in GATHERED:
                if (rate := self._file.rate(row)) is not None:
                    self._rows.setdefault(row, []).append(rate)

    def profile(self, name: str) -> Profile:
        """What was found, under a name; at least one round has been."""
        most = {limit.name: _number(limit.rate.most, limit.rate.median) for limit in self._limits.found()}
        largest = max(self._caches, key=lambda cache: cache.bytes, default=None)
        held = most.get(f"read {largest.level}") if largest is not None else None
        return Profile(
            name=name, title=self.name, vendor="probed", backend=self.backend,
            memory=Number(value=self.started.runtime.memory().total, source=SOURCE),
            bandwidth=most.get(MEMORY),
            cache=Number(value=largest.bytes, source=SOURCE) if largest is not None and held else None,
            cache_bandwidth=held,
            gather={row: most[gather_name(row)] for row in GATHERED if gather_name(row) in most},
            file={row: _most(rates) for row, rates in self._rows.items()},
            link=_most(self._copies) if self._copies else None,
            launch=Number(value=min(self._launches), source=SOURCE, note=f"of {_CALLS} calls that do next to nothing"),
            flops={kind: most[gemm_name(kind)] for kind in _GEMMS if gemm_name(kind) in most},
            sources={SOURCE: self._source()},
        )  # fmt: skip

    def _source(self) -> Source:
        versions = machine.machine(self.started, self.name).versions
        said = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()) if version)
        how = f"{len(self._launches)} probes by {torch.get_num_threads()} threads"
        title = f"deepport probe on {self.name}: the most of {how} ({said})"
        return Source(title=title, by="measured", date=datetime.now(UTC).isoformat(timespec="seconds"))


def _most(rates: list[float]) -> Number:
    return _number(max(rates), sorted(rates)[len(rates) // 2])


def _number(most: float, median: float) -> Number:
    return Number(value=most, source=SOURCE, note=f"the median is {median:.3g}")


def _launch(device: torch.device, stopwatch: Stopwatch) -> float:
    """Seconds of a call that does next to nothing, replayed where the device captures (`deepport.graph`)."""
    gate = torch.zeros(1, 8, dtype=torch.bfloat16, device=device)

    def chain(x: Tensor) -> Tensor:
        for _ in range(_CALLS):
            x = ops.swiglu(x, x)
        return x

    with torch.inference_mode(), Session():
        step: Callable[[Tensor], Tensor] = Repeated(chain)
        for _ in range(3):  # computed, captured, replayed
            step(gate)
        return min(stopwatch.seconds(lambda: step(gate)) for _ in range(5)) / _CALLS


def _copy(device: torch.device, stopwatch: Stopwatch) -> float:
    """Seconds to bring some pinned memory of the host's to the device."""
    source = torch.empty(_COPIED, dtype=torch.uint8, pin_memory=True)
    target = torch.empty_like(source, device=device)
    return stopwatch.seconds(lambda: target.copy_(source, non_blocking=True))
