"""Repeated measurements as a few numbers: the middle, and how far they lie from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict


class Spread(BaseModel):
    """What repeated measurements of one thing say together.

    Attributes:
        median: the middle; an outlier does not move it.
        mad: the median absolute deviation from it.
        low, high: quartiles.
        least, most: extremes.
        n: how many measurements there were.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    median: float
    mad: float
    low: float
    high: float
    least: float
    most: float
    n: int

    @classmethod
    def of(cls, samples: Iterable[float]) -> Spread:
        """ValueError where there are none."""
        found = np.asarray(list(samples), dtype=np.float64)
        if not found.size:
            raise ValueError("nothing was measured")
        least, low, median, high, most = (float(q) for q in np.quantile(found, (0, 0.25, 0.5, 0.75, 1)))
        mad = float(np.median(np.abs(found - median)))
        return cls(median=median, mad=mad, low=low, high=high, least=least, most=most, n=found.size)


def ratios(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Of measurements taken in pairs: what changes the machine's speed between two pairs changes no ratio."""
    return Spread.of(a / b for a, b in zip(over, under, strict=True))
