"""The gates on numbers. They see outputs, the oracle's and the yardstick's, and no operator.

With `e = got - oracle`, `r = yardstick - oracle` (float64), and `u` the spacing of the output's format at the oracle's largest
magnitude (`u_row`: at a row's), over the n elements that the contract specifies:

| gate | metric | passes where |
|---|---|---|
| G0 | bits | every bit is the oracle's (exact operators, integers) |
| G0 | infinities and NaN | they are where the yardstick's are |
| G2 | rms | `rms(e) <= a rms(r) + s(sqrt(n)) u` |
| G2 | mean | `mean |e| <= a mean |r| + s(n) u` |
| G2 | max | `max |e| <= b max |r| + s(1) u` |
| G3 | worst row | every row of 8 elements or more: `rms(e_row) <= b rms(r_row) + s(1) u_row` |
| G4 | towards zero, upwards | errors' signs are no more lopsided than the yardstick's and chance allow |

`a` and `b` are the operator's own (`deepport.spec.Tolerance`). The added terms are for where the yardstick happens to be exact.
Of outputs narrower than the accumulator, one element may then err by one `u`, a tie that rounds the other way: `s(m) = 1 / m`. Of
outputs as wide as it, every element may, and a few by `order` of them, for nobody promises sums that are rounded right:
`s(m) = max(order / m, 1)`. Of fewer than 8 such sums the yardstick's error says too little where they cancel, and counts as no
less than what one rounding of each input does to them (`deepport.conformance.oracle.sensitivity`).

A row is measured by the yardstick's error in the same row, so that a small row lost beside a large one is seen. A gradient's
rows, and shorter ones, are measured by the yardstick's worst row: a gradient that cancels to 0 has no scale of its own.

Flushing subnormal numbers to zero is allowed: what is below the least normal number of float32 never counts, and below that of
the output's format it does not count where the right number is too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from deepport.conformance.result import Gate
from deepport.formats import accumulation
from deepport.spec import Tolerance

_LOPSIDED = 0.25
"""Excess of one sign over the other, as a share of all errors, that rounding to nearest stays below."""

_EXCESS = "errors of one sign more than of the other, as a share of all"

_LEAST = torch.finfo(torch.float32).smallest_normal

ENOUGH = 8
"""Elements, of an output or a row, from which on the yardstick's error in it says enough."""

_SIGMAS = 6.0
"""Chance alone exceeds so many standard deviations once in 5e8 gates."""


def exact(name: str, got: Tensor, oracle: Tensor, free: Tensor | None) -> list[Gate]:
    """G0: every specified bit, but that one NaN is as good as another."""
    same = _equal_bits(got, oracle)
    if free is not None:
        same |= free
    wrong = int((~same).sum())
    detail = ""
    if wrong:
        first = f"{_first(~same)}: {_at(got, ~same)}, not {_at(oracle, ~same)}"
        detail = f"{wrong} of {same.numel()} differ, first at {first}"
    return [_measured("G0", f"{name} bits", float(wrong), 0.0, detail)]


def _equal_bits(a: Tensor, b: Tensor) -> Tensor:
    size = a.element_size()
    left, right = (bits(t).view(-1, size) for t in (a, b))
    same = (left == right).all(1).view(a.shape)
    if a.dtype.is_floating_point:
        same |= a.float().isnan() & b.float().isnan()
    return same


def bits(t: Tensor) -> Tensor:
    """A tensor's bytes, in the order of its elements."""
    # A clone, for contiguous() returns a lone element with whatever stride it has, which cannot be viewed as bytes.
    return t.detach().clone(memory_format=torch.contiguous_format).flatten().view(torch.uint8)


@dataclass(frozen=True)
class _Errors:
    """Errors of the specified, finite elements; `rows` gives each element's row."""

    error: Tensor
    own: Tensor
    oracle: Tensor
    rows: Tensor
    columns: int
    dtype: torch.dtype
    order: float
    least: float

    @property
    def spacing(self) -> float:
        return spacing(self.dtype, float(self.oracle.abs().max()))

    def slack(self, m: float) -> float:
        """How many units in the last place are allowed for beside the yardstick's error."""
        return 1.0 / m if self.order == 1.0 else max(self.order / m, 1.0)


def numeric(
    name: str,
    got: Tensor,
    oracle: Tensor,
    yardstick: Tensor,
    tolerance: Tolerance,
    free: Tensor | None,
    *,
    own_rows: bool = True,
    least: float = 0.0,
) -> list[Gate]:
    """G0 on infinities and NaN, then G2, G3 and G4 on what is finite.

    `own_rows`: a row's size is the scale of its errors. `least`: the yardstick's error counts as no less.
    """
    specified = torch.ones_like(got, dtype=torch.bool) if free is None else ~free
    special, finite = _non_finite(name, got, yardstick, specified)
    if not bool(finite.any()):
        return [special]
    order = order_of(tolerance, got.dtype)
    found = _errors(got, oracle, yardstick, finite, order, least)
    a, b = tolerance.rms * order, tolerance.max * order
    return [special, *_own_error(name, found, a, b, finite), _worst_row(name, found, b, own_rows), *_bias(name, found)]


def order_of(tolerance: Tolerance, dtype: torch.dtype) -> float:
    """The factor on both bounds: outputs as wide as the accumulator show how sums were ordered."""
    return tolerance.order if dtype == accumulation(dtype) else 1.0


def _non_finite(name: str, got: Tensor, yardstick: Tensor, specified: Tensor) -> tuple[Gate, Tensor]:
    mine, theirs = got.double(), yardstick.double()
    finite = theirs.isfinite() & specified
    agree = torch.where(theirs.isfinite(), mine.isfinite(), (mine == theirs) | (mine.isnan() & theirs.isnan()))
    wrong = ~agree & specified
    count = int(wrong.sum())
    detail = (
        f"{count} elements, first at {_first(wrong)}: {_at(got, wrong)}, not {_at(yardstick, wrong)}" if count else ""
    )
    return _measured("G0", f"{name} infinities and NaN", float(count), 0.0, detail), finite & mine.isfinite()


def _errors(got: Tensor, oracle: Tensor, yardstick: Tensor, finite: Tensor, order: float, least: float) -> _Errors:
    columns = got.shape[-1] if got.dim() else 1
    rows = torch.arange(got.numel()).view(got.shape) // max(columns, 1)
    right = oracle[finite].double()
    error, own = (_flushed(t[finite].double() - right, right, got.dtype) for t in (got, yardstick))
    return _Errors(error, own, right, rows[finite], columns, got.dtype, order, least)


def _flushed(error: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    least = torch.finfo(dtype).smallest_normal
    subnormal = (error.abs() < least) & (right.abs() < least)
    return torch.where(subnormal | (error.abs() < _LEAST), 0.0, error)


def spacing(dtype: torch.dtype, magnitude: float) -> float:
    """The distance between neighbouring numbers of a format at a magnitude; at least float32's least normal number."""
    return float(_spacing(dtype, torch.tensor(magnitude, dtype=torch.float64)))


def _spacing(dtype: torch.dtype, magnitude: Tensor) -> Tensor:
    found = torch.finfo(dtype)
    normal = magnitude.clamp(min=found.smallest_normal)
    return torch.ldexp(torch.full_like(normal, found.eps), torch.frexp(normal).exponent - 1).clamp(min=_LEAST)


def _own_error(name: str, found: _Errors, a: float, b: float, finite: Tensor) -> list[Gate]:
    n, u = found.error.numel(), found.spacing
    error, own = found.error.abs(), found.own.abs()
    worst = int(error.argmax())
    at, off, right = finite.nonzero()[worst].tolist(), _short(found.error[worst]), _short(found.oracle[worst])
    detail = f"largest error at {at}: {off} where {right} is right"

    def gate(metric: str, of: Callable[[Tensor], float], factor: float, m: float) -> Gate:
        bound = factor * max(of(own), found.least) + found.slack(m) * u
        return _measured("G2", f"{name} {metric}", of(error), bound, detail)

    return [
        gate("rms", _rms, a, n**0.5),
        gate("mean", lambda x: float(x.mean()), a, n),
        gate("max", lambda x: float(x.max()), b, 1),
    ]


def _worst_row(name: str, found: _Errors, b: float, own_rows: bool) -> Gate:
    error, own, power = (_by_row(found, t.square(), "mean") for t in (found.error, found.own, found.oracle))
    unit = _spacing(found.dtype, _by_row(found, found.oracle.abs(), "amax"))
    if not own_rows or found.columns < ENOUGH:
        own, unit = own.max().expand_as(own), unit.max().expand_as(unit)
    bound = b * own.sqrt().clamp(min=found.least) + found.slack(1) * unit
    worst = int((error.sqrt() / bound).argmax())
    tiny = torch.finfo(torch.float64).tiny
    ratio = float(error[worst] / power[worst].clamp(min=tiny))
    overall = float(found.error.square().sum() / found.oracle.square().sum().clamp(min=tiny))
    detail = f"row {worst}: NMSE {ratio:.2e}; of the whole output {overall:.2e}"
    return _measured("G3", f"{name} worst row", float(error[worst]) ** 0.5, float(bound[worst]), detail)


def _by_row(found: _Errors, x: Tensor, how: str) -> Tensor:
    start = torch.zeros(int(found.rows.max()) + 1, dtype=torch.float64)
    return start.scatter_reduce(0, found.rows, x, how, include_self=False)


def _bias(name: str, found: _Errors) -> list[Gate]:
    """Rounding to nearest errs up and down, in and out alike; truncation does not. Sums that are not rounded hide it."""
    if found.order != 1.0:
        return []
    away = found.oracle.sign()
    directions = (("towards zero", away), ("upwards", torch.ones_like(away)))
    found_by_direction = [(d, *_lopsided(found.error * sign, found.own * sign)) for d, sign in directions]
    return [_measured("G4", f"{name} {d}", value, bound, _EXCESS) for d, value, bound in found_by_direction]


def _lopsided(error: Tensor, own: Tensor) -> tuple[float, float]:
    """The excess of one sign, and the largest that the yardstick's own, chance and rounding explain."""
    (mine, count), (theirs, _) = (_excess(t) for t in (error, own))
    return mine, 1.5 * theirs + _LOPSIDED + _SIGMAS / max(count, 1) ** 0.5


def _excess(error: Tensor) -> tuple[float, int]:
    signs = error.sign()
    count = int(signs.abs().sum())
    return (abs(float(signs.sum())) / count if count else 0.0), count


def _measured(gate: str, metric: str, value: float, bound: float, detail: str) -> Gate:
    passed = value <= bound  # False where value is NaN
    return Gate(gate=gate, metric=metric, status="pass" if passed else "fail", value=value, bound=bound, detail=detail)  # type: ignore[arg-type]


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def _first(where: Tensor) -> list[int]:
    found: list[int] = where.nonzero()[0].tolist()
    return found


def _at(t: Tensor, where: Tensor) -> str:
    readable = t.float() if t.dtype.is_floating_point and t.element_size() == 1 else t  # float8 cannot be indexed
    return _short(readable[where][0])


def _short(value: Tensor) -> str:
    return f"{value.item():.6g}"
