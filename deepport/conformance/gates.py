"""The gates on numbers. They see outputs, the oracle's and the yardstick's, and no operator.

With `e = got - oracle`, `r = yardstick - oracle` (float64), and `u` the spacing of the output's format at the oracle's largest
magnitude, over the n elements that the contract specifies:

| gate | metric | passes where |
|---|---|---|
| G0 | bits | every bit is the oracle's (exact operators, integers) |
| G0 | infinities and NaN | they are where the yardstick's are |
| G2 | rms | `rms(e) <= a rms(r) + u / sqrt(n)` |
| G2 | mean | `mean |e| <= a mean |r| + u / n` |
| G2 | max | `max |e| <= b max |r| + u` |
| G3 | worst row | `max over rows rms(e_row) <= b max over rows rms(r_row) + u / sqrt(columns)` |
| G4 | towards zero, upwards | errors' signs are no more lopsided than the yardstick's and chance allow |

`a` and `b` are the operator's own (`deepport.spec.Tolerance`). The added terms are one element that errs by one `u`: where the
yardstick happens to be exact, a kernel that rounds one tie differently is not wrong. Differences below the format's least
normal number never count, so that flushing subnormal numbers to zero is allowed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deepport.conformance.result import Gate
from deepport.formats import accumulation
from deepport.spec import Tolerance

_LOPSIDED = 0.25
"""Excess of one sign over the other, as a share of all errors, that rounding to nearest stays below."""

_EXCESS = "errors of one sign more than of the other, as a share of all"

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
    spacing: float


def numeric(
    name: str, got: Tensor, oracle: Tensor, yardstick: Tensor, tolerance: Tolerance, free: Tensor | None
) -> list[Gate]:
    """G0 on infinities and NaN, then G2, G3 and G4 on what is finite."""
    specified = torch.ones_like(got, dtype=torch.bool) if free is None else ~free
    special, finite = _non_finite(name, got, yardstick, specified)
    if not bool(finite.any()):
        return [special]
    found = _errors(got, oracle, yardstick, finite)
    order = order_of(tolerance, got.dtype)
    a, b = tolerance.rms * order, tolerance.max * order
    return [special, *_own_error(name, found, a, b, finite), _worst_row(name, found, b), *_bias(name, found, order)]


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


def _errors(got: Tensor, oracle: Tensor, yardstick: Tensor, finite: Tensor) -> _Errors:
    columns = got.shape[-1] if got.dim() else 1
    rows = torch.arange(got.numel()).view(got.shape) // max(columns, 1)
    least = torch.finfo(got.dtype).smallest_normal
    right = oracle[finite].double()
    error, own = (_flushed(t[finite].double() - right, least) for t in (got, yardstick))
    return _Errors(error, own, right, rows[finite], columns, spacing(got.dtype, float(right.abs().max())))


def _flushed(error: Tensor, least: float) -> Tensor:
    return torch.where(error.abs() < least, 0.0, error)


def spacing(dtype: torch.dtype, magnitude: float) -> float:
    """The distance between neighbouring numbers of a format at a magnitude; at least its least normal number."""
    found = torch.finfo(dtype)
    exponent = torch.frexp(torch.tensor(magnitude, dtype=torch.float64)).exponent.item() - 1
    return max(2.0**exponent * found.eps, found.smallest_normal)


def _own_error(name: str, found: _Errors, a: float, b: float, finite: Tensor) -> list[Gate]:
    n, u = found.error.numel(), found.spacing
    error, own = found.error.abs(), found.own.abs()
    worst = int(error.argmax())
    at, off, right = finite.nonzero()[worst].tolist(), _short(found.error[worst]), _short(found.oracle[worst])
    detail = f"largest error at {at}: {off} where {right} is right"
    return [
        _measured("G2", f"{name} rms", _rms(error), a * _rms(own) + u / n**0.5, detail),
        _measured("G2", f"{name} mean", float(error.mean()), a * float(own.mean()) + u / n, detail),
        _measured("G2", f"{name} max", float(error.max()), b * float(own.max()) + u, detail),
    ]


def _worst_row(name: str, found: _Errors, b: float) -> Gate:
    rows = int(found.rows.max()) + 1
    counts = torch.zeros(rows, dtype=torch.float64).index_add_(0, found.rows, torch.ones_like(found.error))
    error, own, power = (
        torch.zeros(rows, dtype=torch.float64).index_add_(0, found.rows, t.square()) / counts.clamp(min=1)
        for t in (found.error, found.own, found.oracle)
    )
    worst = int(error.argmax())
    ratio = error / power.clamp(min=torch.finfo(torch.float64).tiny)
    overall = float(found.error.square().sum() / found.oracle.square().sum().clamp(min=torch.finfo(torch.float64).tiny))
    detail = f"row {worst}: NMSE {float(ratio[worst]):.2e}; of the whole output {overall:.2e}"
    bound = b * float(own.max()) ** 0.5 + found.spacing / found.columns**0.5
    return _measured("G3", f"{name} worst row", float(error[worst]) ** 0.5, bound, detail)


def _bias(name: str, found: _Errors, order: float) -> list[Gate]:
    """Rounding to nearest errs up and down, in and out alike; truncation does not. Sums that are not rounded hide it."""
    if order != 1.0:
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
