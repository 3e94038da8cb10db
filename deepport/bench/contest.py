"""One figure: us, the limit that we meet, and peers, in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from deepport.bench.limits import Limits, Need
from deepport.bench.result import Against, Figure
from deepport.bench.spread import Spread, ratios
from deepport.bench.timing import Rounds, Turn, alternate

OURS, LIMIT = "deepport", "limit"
"""Contestants beside the peers, who have names of their own."""


@dataclass(frozen=True)
class Outcome:
    """What became of a contest.

    Attributes:
        figure: None where no round was whole.
        implausible: why the figure cannot be true; "" where it can.
        interrupted: Ctrl-C ended it; the rounds before that count.
    """

    figure: Figure | None
    implausible: str = ""
    interrupted: bool = False


def contest(
    turns: Mapping[str, Turn], need: Need, limits: Limits, rounds: int, over: Callable[[], bool], **facts: Any
) -> Outcome:
    """Let `turns`, ours among them, compete in rounds that begin with a probe of the limit that sets the bound.

    `facts` are the fields of the figure that are known already.
    """
    bound = limits.bound(need)
    limit: dict[str, Turn] = {} if bound is None else {LIMIT: lambda: limits.probe(bound.limit)}
    found = alternate({**limit, **turns}, rounds, over)
    if not found.count:
        return Outcome(None, interrupted=found.interrupted)
    ours = found.samples[OURS]
    if bound is not None:
        allowed = [bound.amount / rate for rate in found.samples[LIMIT]]
        facts |= {"limit": bound.limit, "bound": Spread.of(allowed).median, "share": ratios(allowed, ours)}
    figure = Figure(
        flops=need.flops, bytes=need.bytes, memory="cold" if need.cold else "warm", seconds=Spread.of(ours),
        against=_against(found), **facts,
    )  # fmt: skip
    return Outcome(figure, limits.exceeded(need, figure.seconds.median), found.interrupted)


def _against(found: Rounds) -> tuple[Against, ...]:
    ours = found.samples[OURS]
    taken = {peer: s for peer, s in found.samples.items() if peer not in (OURS, LIMIT)}
    return tuple(Against(peer=p, seconds=Spread.of(s), ratio=ratios(s, ours)) for p, s in taken.items())
