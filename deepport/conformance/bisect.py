"""From wrong logits to the kernel that makes them wrong, and the first call in which it does.

Three steps, each a few runs of the model over one short text, in which all decide alike (`deepport.conformance.decisions`):

1. The logits of the kernels against those of the references, on the same device and in the same dtype, by gate G6.
2. Where they are wrong, every kernel in turn is swapped for its reference. One whose swap brings the logits back is a suspect.
   Where no single swap does, several kernels are at fault: beginning with references only, kernels are let in again one after
   another, and one that spoils the logits is a suspect and stays out.
3. Once more with the suspects in shadow: at each of their calls the reference computes the same inputs, and the call is judged by
   its operator's own gates. A suspect with a call that fails is guilty. A kernel that only called the guilty one is not, for in
   shadow it is given the reference's result.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from deepport.conformance import bundle
from deepport.conformance.bundle import Bundle
from deepport.conformance.composition import outcome
from deepport.conformance.decisions import Decisions, Directed, everything, identity, nothing
from deepport.conformance.result import REFERENCE, Gate
from deepport.conformance.shadow import Shadowed
from deepport.conformance.trace import Script, on_host, play, widened
from deepport.errors import BadInput
from deepport.planning.sites import sites
from deepport.record import Record, Row
from deepport.runtime import HostRuntime
from deepport_model.model import Model
from deepport_model.transformer import CHUNK, Transformer

Progress = Callable[[int, int], None]
"""Called with runs done, and those that are known to come."""


@dataclass(frozen=True)
class Deviation:
    """How far logits, and what the model chose from on the way to them, are from the oracle's, by gate G6."""

    gates: tuple[Gate, ...]

    @property
    def right(self) -> bool:
        return all(g.status == "pass" for g in self.gates)

    @property
    def share(self) -> float:
        """Of the bound that is used up most."""
        return max(g.margin for g in self.gates if g.margin is not None)

    def gate(self, metric: str) -> Gate:
        return next(g for g in self.gates if g.metric == metric)


@dataclass(frozen=True)
class Swap:
    """The logits with one kernel swapped for its reference."""

    operator: str
    implementation: str
    calls: int
    without: Deviation

    @property
    def name(self) -> str:
        return identity(self.operator, self.implementation)


@dataclass(frozen=True)
class Culprit:
    """A guilty kernel and its first wrong call; without one, only the composition of its calls is wrong.

    Attributes:
        calls: how many it makes in a run.
        call, site: the number of the wrong one, from 1, and where in the model.
        gate: the measurement that is furthest past its bound.
        folder: where the call's bundle is.
    """

    operator: str
    implementation: str
    calls: int
    call: int = 0
    site: str = ""
    gate: Gate | None = None
    folder: Path | None = None


@dataclass(frozen=True)
class Bisection:
    """What was found.

    Attributes:
        oracle: what the logits were compared with.
        references, kernels: the logits of the references, and of the kernels that `served`, so many of them.
        swaps: every kernel swapped; none where the logits are right.
        several: no single swap brings them back.
    """

    oracle: str
    references: Deviation
    kernels: Deviation
    served: int
    swaps: tuple[Swap, ...] = ()
    culprits: tuple[Culprit, ...] = ()
    several: bool = False

    @property
    def wrong(self) -> tuple[str, ...]:
        """What of the kernels' is wrong."""
        return tuple(g.metric for g in self.kernels.gates if g.status == "fail")


def bisect(model: Model, ids: Sequence[int], new: int, folder: Path, progress: Progress | None = None) -> Bisection:
    """Find what is wrong with a model's logits over these tokens, and `new` ones after them.

    Bundles of first wrong calls are written into `folder`. Raises BadInput where the model is too large for any oracle.
    """
    runs = _Runs(model, Script((tuple(ids),), new, CHUNK), progress or (lambda done, total: None))
    record = Record()
    kernels = runs.deviation(nothing, record)
    served = [row for row in record.totals() if not row.implementation.startswith(REFERENCE)]
    if kernels.right:
        return Bisection(runs.oracle, runs.references, kernels, len(served))
    swaps = tuple(_swap(runs, row) for row in served)
    single = [s for s in swaps if s.without.right]
    culprits = _culprits(runs, single or _let_in(runs, swaps), folder)
    return Bisection(runs.oracle, runs.references, kernels, len(served), swaps, culprits, not single)


def _swap(runs: _Runs, row: Row) -> Swap:
    name = identity(row.operator, row.implementation)
    return Swap(row.operator, row.implementation, row.calls, runs.deviation(lambda other: other == name))


class _Runs:
    """Runs of one model over one text, each compared with the same oracle and yardstick."""

    def __init__(self, model: Model, script: Script, progress: Progress) -> None:
        self.transformer, self.script, self.backend = model.transformer, script, model.backend.name
        self.decisions, self._progress, self._done = Decisions(), progress, 0
        leader, self.oracle = _leader(model.transformer)
        self._oracle = self.outputs(Directed(self.decisions, leads=True, without=everything), leader)
        self._yardstick = self.outputs(Directed(self.decisions, without=everything, backend=self.backend))
        self.references = self._compared(self._yardstick)

    def outputs(self, session: Directed, transformer: Transformer | None = None) -> dict[str, Tensor]:
        found = play(transformer or self.transformer, self.script, session)
        self._done += 1
        self._progress(self._done, self._done + 1)
        return found

    def deviation(self, without: Callable[[str], bool], record: Record | None = None) -> Deviation:
        """Of what the kernels come to, without some of them."""
        return self._compared(
            self.outputs(Directed(self.decisions, without=without, backend=self.backend, record=record))
        )

    def _compared(self, found: dict[str, Tensor]) -> Deviation:
        dtype = self.transformer.dtype
        return Deviation(tuple(outcome(found, self._oracle, self._yardstick, self.script, dtype)))


def _leader(transformer: Transformer) -> tuple[Transformer, str]:
    """The oracle's model, and what to call it."""
    if transformer.device.type == "cpu":
        return widened(transformer), "references in float64"
    needed = sum(t.numel() * t.element_size() for t in transformer.state_dict().values())
    if needed < HostRuntime().memory().free:
        return widened(on_host(transformer)), "references in float64 on the CPU"
    if transformer.dtype == torch.float32:
        raise BadInput(
            f"the model's {needed / 1e9:.1f} GB do not fit the host's memory, where the float64 oracle computes; with --dtype "
            "bfloat16 the references in float32 on the device are the oracle"
        )
    return widened(transformer, torch.float32), f"references in float32 on {transformer.device}"


def _let_in(runs: _Runs, swaps: Sequence[Swap]) -> list[Swap]:
    """The kernels that spoil the logits among references and the kernels before them that do not."""
    out = {s.name for s in swaps}
    for swap in swaps:
        out.remove(swap.name)
        if not runs.deviation(lambda name: name in out).right:
            out.add(swap.name)
    return [s for s in swaps if s.name in out]


def _culprits(runs: _Runs, suspects: Sequence[Swap], folder: Path) -> tuple[Culprit, ...]:
    """The suspects with a call that fails; all of them where there is none."""
    by_name, found = {s.name: s for s in suspects}, list[Culprit]()

    def failed(call: Bundle) -> None:
        swap = by_name[identity(call.operator, call.implementation)]
        where = folder / re.sub(r"[^\w.-]", ".", f"{swap.operator}.{swap.implementation}")
        bundle.write(where, call)
        gate = _worst(call.gates)
        found.append(Culprit(swap.operator, swap.implementation, swap.calls, call.call, call.site, gate, where))

    with sites(runs.transformer) as site:
        runs.outputs(Shadowed(runs.decisions, frozenset(by_name), site, failed, backend=runs.backend))
    return tuple(found) or tuple(Culprit(s.operator, s.implementation, s.calls) for s in suspects)


def _worst(gates: Sequence[Gate]) -> Gate:
    """Of those that fail, a measurement before a yes-or-no."""
    failing = [g for g in gates if g.status == "fail"]
    return max(failing, key=lambda g: -1.0 if g.margin is None else g.margin)
