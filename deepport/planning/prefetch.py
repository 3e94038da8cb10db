"""Engram's rows on their way from the host: whether they come before a layer needs them.

All rows of a step are asked for at its start (`deepport.table`), and the link brings one table's after another's. A layer's
cover is the least time of what is computed before it. Both times are bounds from below: hidden means hidden if the link is
as fast as the chip's profile says.

Rows of a mapped file come as those of the host's memory do where the system still has its pages there: that is what a bound
must count with. Where it has none of them each row is a read of the disk: what that takes is told beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deepport.chips.profile import Profile
from deepport.planning.bound import Timed
from deepport.planning.trace import GATHER
from deepport_model.transformer import Transformer


@dataclass(frozen=True)
class Fetch:
    """One layer's rows.

    Attributes:
        bytes: over each device's link.
        arrives: seconds from the step's start on the link; None where its rate is unknown.
        cover: seconds of what is computed before the layer.
        waits: seconds that the layer waits, with all waiting before it taken into account.
        rate: bytes a second that the link must bring for nobody to wait; infinite without cover.
        mapped: the rows are a mapped file's.
        cold: seconds from the step's start until they are read where nothing of it is in memory; None where the rate of that is
            unknown.
        waits_cold: seconds that the layer then waits.
    """

    layer: int
    bytes: float
    arrives: float | None
    cover: float
    waits: float
    rate: float
    mapped: bool = False
    cold: float | None = None
    waits_cold: float = 0.0

    @property
    def hidden(self) -> bool | None:
        """None where the link's rate is unknown."""
        return None if self.arrives is None else self.waits == 0.0


def fetches(
    transformer: Transformer, tokens: int, timed: Sequence[Timed], chip: Profile, devices: int, mapped: bool = False
) -> list[Fetch]:
    """Of a step of so many tokens, layer by layer; none without Engram. A processor's rows need no link."""
    engram = transformer.config.engram
    if engram is None:
        return []
    size = tokens * engram.width * transformer.dtype.itemsize / devices
    link = float("inf") if chip.backend == "cpu" else chip.value("link")
    row = _row(transformer)
    disk = chip.rows_from_file(row) if mapped else None
    read = tokens * engram.heads * row / chip.hosts(devices)
    found, waited, waited_cold = [], 0.0, 0.0
    for before, layer in enumerate(sorted(engram.layer_ids), 1):
        asked, cover = before * size, _before(timed, layer)
        arrives = None if link is None else asked / link
        cold = None if disk is None else max(before * read / disk, arrives or 0.0)
        waits, waits_cold = (max((t or 0.0) - cover - w, 0.0) for t, w in ((arrives, waited), (cold, waited_cold)))
        waited, waited_cold = waited + waits, waited_cold + waits_cold
        rate = asked / cover if cover else float("inf")
        found.append(Fetch(layer, size, arrives, cover, waits, rate, mapped, cold, waits_cold))
    return found


def _row(transformer: Transformer) -> int:
    """Bytes of a table's row, without its scales."""
    rows = next(t for name, t in transformer.named_parameters() if name.endswith(".engram.table.rows"))
    return rows.shape[1] * rows.element_size()


def computed(timed: Iterable[Timed]) -> list[Timed]:
    """The calls that the device still makes where the host gathers."""
    return [t for t in timed if t.call.operator != GATHER]


def _before(timed: Iterable[Timed], layer: int) -> float:
    total = 0.0
    for t in timed:
        if t.call.site.startswith(f"layers.{layer}."):
            break
        total += t.seconds
    return total
