"""A whole plan: what lies where, whether it fits, and how long steps take at least."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from deepport.chips.profile import Profile
from deepport.planning import prefetch, trace
from deepport.planning.bound import Timed, bound, seconds, shares
from deepport.planning.prefetch import Fetch
from deepport.planning.sizes import Placement, Sizes, sizes
from deepport.planning.trace import Trace
from deepport_model.transformer import Transformer


@dataclass(frozen=True)
class Load:
    """What is asked of a model: so many sequences at once, each of `context` tokens, read in steps of `chunk` tokens."""

    context: int
    batch: int
    chunk: int
    engram: Placement


@dataclass(frozen=True)
class Step:
    """One step. `tokens` come of it; `fetched` is empty where nothing is brought from the host."""

    tokens: int
    timed: list[Timed]
    fetched: list[Fetch]

    @property
    def waits(self) -> float:
        return sum(f.waits for f in self.fetched)

    @property
    def seconds(self) -> float:
        return seconds(self.timed) + self.waits

    @property
    def rate(self) -> float | None:
        """Tokens a second, at most; None where nothing that bounds it is known."""
        return self.tokens / self.seconds if self.seconds else None

    @property
    def shares(self) -> dict[str, float]:
        return shares(self.timed, self.waits)


@dataclass(frozen=True)
class Estimate:
    """A model on a chip. `prefill` is a step in the middle of a prompt: its time is at most the mean of the prompt's steps."""

    chip: Profile
    devices: int
    load: Load
    sizes: Sizes
    prefill: Step
    decode: Step

    @property
    def needed(self) -> int:
        """Bytes of each device's memory."""
        return self.sizes.device(self.devices) + (self.host // self.devices if self.shared else 0)

    @property
    def host(self) -> int:
        """Bytes of the host's memory."""
        return self.sizes.elsewhere("host")

    @property
    def shared(self) -> bool:
        """Whether the device's memory is the host's."""
        return self.chip.backend == "cpu"

    @property
    def fits(self) -> bool | None:
        """Whether devices and host have the memory; None where that of the devices is unknown."""
        memory, host = self.chip.value("memory"), self.chip.value("host_memory")
        if memory is None:
            return None
        return self.needed <= memory and (self.shared or host is None or self.host <= host * self.hosts)

    @property
    def hosts(self) -> int:
        return -(-self.devices // self.chip.host_devices)


class Planner:
    """Plans of one model. Steps are traced once, whatever the chip."""

    def __init__(self, transformer: Transformer) -> None:
        self.transformer = transformer
        self._decode = cache(lambda batch, depth: trace.decode(transformer, batch, depth))
        self._prefill = cache(lambda tokens, depth: trace.prefill(transformer, tokens, depth))

    def estimate(self, chip: Profile, devices: int, load: Load) -> Estimate:
        decode, prefill = self._traces(load)
        return Estimate(
            chip, devices, load, self.sizes(load),
            self._step(prefill, min(load.chunk, load.context), chip, devices, load),
            self._step(decode, load.batch, chip, devices, load),
        )  # fmt: skip

    def sizes(self, load: Load) -> Sizes:
        peak = max(t.peak for t in self._traces(load))
        return sizes(self.transformer, load.batch, load.context, load.chunk, load.engram, peak)

    def _traces(self, load: Load) -> tuple[Trace, Trace]:
        tokens = min(load.chunk, load.context)
        return self._decode(load.batch, load.context), self._prefill(tokens, max(load.context // 2, 1))

    def _step(self, found: Trace, tokens: int, chip: Profile, devices: int, load: Load) -> Step:
        timed = bound(found.calls, chip, devices)
        if load.engram == "device" or chip.backend == "cpu":
            return Step(tokens, timed, [])
        timed = prefetch.computed(timed)
        return Step(tokens, timed, prefetch.fetches(self.transformer, tokens, timed, chip, devices))
