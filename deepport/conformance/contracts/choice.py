"""Gate G5: whether a choice among scored candidates is a right one.

A scorer that errs may choose otherwise than the oracle, and be right: where it takes `a` and leaves `b`, its own scores say
`a >= b`, so the true ones differ by no more than the two errors. How much a scorer may err is measured: the reference's
scores, accumulated in float32, against float64, as a share of the sum of magnitudes that makes each score. The worst share over
the case, times 8 for another order of the sum (`deepport.spec.Tolerance.order`) and plus one ulp, is every candidate's bound.

Equal scores are certain only where the candidates are the same, or every term is exactly 0, and the reference's own scores are
equal too (a matrix product may round the same dot product differently at its edge): there the lowest id must win.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deepport.conformance.result import Gate

_ORDER = 8.0
"""How much further a differently ordered float32 sum may err than the reference's."""

_HUGE = 1e300
"""Stands for an infinite score, so that differences are numbers."""


@dataclass(frozen=True)
class Choice:
    """What some rows have chosen, and from what. S candidates, in the order of their ids.

    Attributes:
        row: of the first of them in the output.
        ids: [T, k] int64, -1 for none; possibly nonsense.
        scores, own: [T, S] float64: the oracle's, and the reference's in the case's dtypes.
        sizes: [T, S]: the magnitude that a score's error is proportional to.
        candidates: [T, S]: which may be chosen.
        groups: [T, S] int64 (`finer`): candidates of a row with the same number have the same score for certain.
    """

    row: int
    ids: Tensor
    scores: Tensor
    own: Tensor
    sizes: Tensor
    candidates: Tensor
    groups: Tensor

    @property
    def ranked(self) -> Tensor:
        """The candidates whose score is a number."""
        return self.candidates & ~self.scores.isnan()

    @property
    def chosen(self) -> Tensor:
        """[T, S]: which are chosen, of those that exist."""
        found = torch.zeros_like(self.candidates)
        row, column = ((self.ids >= 0) & (self.ids < found.shape[1])).nonzero(as_tuple=True)
        found[row, self.ids[row, column]] = True
        return found


def finer(*labels: Tensor) -> Tensor:
    """`[T, S]` int64 below S: the same number in a row where all of these labels `[T, S]` are the same."""
    found = _dense(labels[0])
    for label in labels[1:]:
        found = _dense(found * (found.shape[1] + 1) + _dense(label))
    return found


def _dense(labels: Tensor) -> Tensor:
    """Each row's values by their rank; equal values share one."""
    ordered, order = labels.sort(1)
    ranks = torch.nn.functional.pad((ordered[:, 1:] != ordered[:, :-1]).cumsum(1), (1, 0))[:, : labels.shape[1]]
    return torch.empty_like(order).scatter_(1, order, ranks)


def selected(metric: str, choices: Iterable[Choice], wrong: Callable[[Choice], Tensor]) -> Gate:
    """A gate that passes where `wrong(choice) [T, ...]` is nowhere True."""
    for choice in choices:
        rows = wrong(choice).flatten(1).any(1).nonzero()
        if len(rows):
            at = int(rows[0])
            return _gate(metric, f"row {choice.row + at} has the ids {_listed(choice.ids[at])}")
    return _gate(metric, "")


def _gate(metric: str, fault: str) -> Gate:
    return Gate(gate="G5", metric=metric, status="fail" if fault else "pass", detail=fault)


def _listed(ids: Tensor) -> str:
    text = ", ".join(map(str, ids[:16].tolist()))
    return text if len(ids) <= 16 else f"{text}, ... ({len(ids)} in all)"


def shape_of_rows(choices: Sequence[Choice], capacity: int) -> list[Gate]:
    """In range, causal, distinct, valid ids first and ascending, as many as there are, and never a NaN."""
    rules: dict[str, Callable[[Choice], Tensor]] = {
        "ids in range": lambda c: (c.ids < -1) | (c.ids >= capacity),
        "causal": lambda c: c.ids >= c.candidates.sum(1, keepdim=True),
        "distinct": repeated,
        "ascending, then -1": _disordered,
        "number of ids": lambda c: ((c.ids >= 0).sum(1) != c.ranked.sum(1).clamp(max=c.ids.shape[1]))[:, None],
        "NaN is never chosen": lambda c: c.chosen & c.candidates & c.scores.isnan(),
    }
    return [selected(metric, choices, rule) for metric, rule in rules.items()]


def repeated(choice: Choice) -> Tensor:
    """An id that its row has already."""
    ordered = choice.ids.sort(1).values
    return (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)


def _disordered(choice: Choice) -> Tensor:
    left, right = choice.ids[:, :-1], choice.ids[:, 1:]
    return (right >= 0) & ((left < 0) | (left > right))


def regret(choices: Sequence[Choice], k: int, eps: float) -> Gate:
    """The worst swap: by how much the candidate that was left is better than the one taken, in their mean error bounds."""
    share = max((_share(c) for c in choices), default=0.0)
    swaps = [_worst_swap(c, k, _ORDER * share + eps) for c in choices if c.candidates.numel()]
    value, detail = max(swaps, default=(0.0, ""))
    passed = value <= 2.0
    return Gate(
        gate="G5",
        metric="regret, in error bounds",
        status="pass" if passed else "fail",
        value=value,
        bound=2.0,
        detail=detail,
    )


def _share(choice: Choice) -> float:
    """The reference's worst error, as a share of the magnitude behind the score."""
    error = (choice.own - choice.scores).abs() / choice.sizes
    counted = error[choice.ranked & error.isfinite()]
    return float(counted.max()) if counted.numel() else 0.0


def _worst_swap(choice: Choice, k: int, share: float) -> tuple[float, str]:
    """The pair that is worst in its bounds, and what it is; 0 where nothing was swapped."""
    scores = choice.scores.nan_to_num(posinf=_HUGE, neginf=-_HUGE)
    bounds = (share * choice.sizes).nan_to_num(posinf=0.0)  # an infinite score is infinite to every scorer
    best = _best(choice, k)
    left, taken = best & ~choice.chosen, choice.chosen & choice.ranked & ~best
    upper, b = (scores - bounds).masked_fill(~left, -torch.inf).max(1)
    lower, a = (scores + bounds).masked_fill(~taken, torch.inf).min(1)
    swapped = left.any(1) & taken.any(1)
    if not bool(swapped.any()):
        return 0.0, ""
    row = int((upper - lower).masked_fill(~swapped, -torch.inf).argmax())
    one, other = int(b[row]), int(a[row])
    cost, bound = float(scores[row, one] - scores[row, other]), float(bounds[row, one] + bounds[row, other]) / 2
    value = max(cost, 0.0) / max(bound, torch.finfo(torch.float64).tiny)
    return value, f"row {choice.row + row} has {other} and not {one}, which scores {cost:.3g} more; bound {bound:.3g}"


def _best(choice: Choice, k: int) -> Tensor:
    """[T, S]: the oracle's choice."""
    order = choice.scores.neg().masked_fill(~choice.ranked, torch.nan).sort(stable=True).indices[:, :k]
    return torch.zeros_like(choice.candidates).scatter_(1, order, True) & choice.ranked


def ties(choices: Sequence[Choice]) -> Gate:
    """Among candidates that score the same for certain, those with the lowest ids are taken."""
    for choice in choices:
        if choice.candidates.numel() and (fault := _reversed_tie(choice)):
            return _gate("ties by lowest id", fault)
    return _gate("ties by lowest id", "")


def _reversed_tie(choice: Choice) -> str:
    count = choice.candidates.shape[1]
    ids = torch.arange(count).expand_as(choice.groups)
    none = torch.full((len(ids), count), -1)
    last = none.scatter_reduce(1, choice.groups, ids.where(choice.chosen & choice.ranked, -1), "amax")
    first = (none + count + 1).scatter_reduce(
        1, choice.groups, ids.where(choice.ranked & ~choice.chosen, count), "amin"
    )
    wrong = (first < last).nonzero()
    if not len(wrong):
        return ""
    row, group = wrong[0].tolist()
    return f"row {choice.row + row} has {int(last[row, group])} and not {int(first[row, group])}, which scores the same"
