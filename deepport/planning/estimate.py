"""A whole plan: what lies where, whether it fits, and how long steps take at least."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from deepport.chips.profile import Profile
from deepport.planning import prefetch, trace
from deepport.planning.bound import Timed, bound, seconds, shares
from deepport.planning.kinds import kinds
from deepport.planning.prefetch import Fetch
from deepport.planning.sizes import Placement, Sizes, sizes
from deepport.planning.trace import NOBODY, Kernels, Trace
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
    """A model on a chip. `prefill` is a step of a prompt, which costs at most what the prompt's steps do on average."""

    chip: Profile
    devices: int
    load: Load
    sizes: Sizes
    prefill: Step
    decode: Step

    @property
    def needed(self) -> int:
        """Bytes of each device's memory."""
        return needed(self.chip, self.devices, self.sizes)

    @property
    def fits(self) -> bool | None:
        return fits(self.chip, self.devices, self.sizes)


def needed(chip: Profile, devices: int, sizes: Sizes) -> int:
    """Bytes of each device's memory; of a processor's, which is the host's, what lies on the host too."""
    return sizes.device(devices) + (-(-sizes.elsewhere("host") // devices) if chip.backend == "cpu" else 0)


def fits(chip: Profile, devices: int, sizes: Sizes) -> bool | None:
    """Whether devices and hosts have the memory; None where that of the devices is unknown, unknown hosts have enough."""
    memory, host = chip.value("memory"), chip.value("host_memory")
    if memory is None:
        return None
    if needed(chip, devices, sizes) > memory:
        return False
    return chip.backend == "cpu" or host is None or sizes.elsewhere("host") <= host * chip.hosts(devices)


class Planner:
    """Plans of one model. Steps are traced once, whatever the chip.

    `kernels` are those that will serve, where they are here to tell what they need for themselves.
    """

    def __init__(self, transformer: Transformer, kernels: Kernels = NOBODY) -> None:
        self.transformer = transformer
        few = kinds(transformer)
        self._decode = cache(lambda batch, depth: trace.decode(few, batch, depth, kernels))
        self._prefill = cache(lambda tokens, context: trace.prefill(few, tokens, context, kernels))

    def estimate(self, chip: Profile, devices: int, load: Load) -> Estimate:
        decode, prefill = self._traces(load)
        return Estimate(
            chip, devices, load, self.sizes(load),
            self._step(prefill, min(load.chunk, load.context), chip, devices, load),
            self._step(decode, load.batch, chip, devices, load),
        )  # fmt: skip

    def sizes(self, load: Load) -> Sizes:
        return self._sizes(load, *self._traces(load))

    def sizes_like(self, load: Load, known: Estimate) -> Sizes:
        """Of another batch or context than a known estimate's, without tracing again: results grow with the batch at most."""
        decode, prefill = self._traces(known.load)

        def grown(size: int) -> int:
            return -(-size * load.batch // known.load.batch)

        kept = {buffer: grown(size) for buffer, size in decode.kept.items()}
        return self._sizes(load, Trace(decode.calls, grown(decode.peak), kept), prefill)

    def _sizes(self, load: Load, decode: Trace, prefill: Trace) -> Sizes:
        own = sum(max(t.kept.get(buffer, 0) for t in (decode, prefill)) for buffer in decode.kept | prefill.kept)
        peak = max(decode.peak, prefill.peak)
        return sizes(self.transformer, load.batch, load.context, load.chunk, load.engram, peak, own)

    def _traces(self, load: Load) -> tuple[Trace, Trace]:
        tokens = min(load.chunk, load.context)
        return self._decode(load.batch, load.context), self._prefill(tokens, load.context)

    def _step(self, found: Trace, tokens: int, chip: Profile, devices: int, load: Load) -> Step:
        timed = bound(found.calls, chip, devices)
        if load.engram == "device" or (load.engram == "host" and chip.backend == "cpu"):
            return Step(tokens, timed, [])
        timed = prefetch.computed(timed)
        mapped = load.engram == "mmap"
        return Step(tokens, timed, prefetch.fetches(self.transformer, tokens, timed, chip, devices, mapped))
