"""Engram's rows on their way from the host: whether they come before a layer needs them.

All rows of a step are asked for at its start (`deepport.table`), and the link brings one table's after another's. A layer's
cover is the least time of what is computed before it. Both times are bounds from below: hidden means hidden if the link is
as fast as the chip's profile says.
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
    """

    layer: int
    bytes: float
    arrives: float | None
    cover: float
    waits: float
    rate: float

    @property
    def hidden(self) -> bool | None:
        """None where the link's rate is unknown."""
        return None if self.arrives is None else self.waits == 0.0


def fetches(transformer: Transformer, tokens: int, timed: Sequence[Timed], chip: Profile, devices: int) -> list[Fetch]:
    """Of a step of so many tokens, layer by layer; none without Engram."""
    engram = transformer.config.engram
    if engram is None:
        return []
    size = tokens * engram.width * transformer.dtype.itemsize / devices
    link, found, waited, asked = chip.value("link"), [], 0.0, 0.0
    for layer in sorted(engram.layer_ids):
        asked += size
        cover = _before(timed, layer)
        arrives = None if link is None else asked / link
        waits = max((arrives or 0.0) - cover - waited, 0.0)
        waited += waits
        found.append(Fetch(layer, size, arrives, cover, waits, asked / cover if cover else float("inf")))
    return found


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
