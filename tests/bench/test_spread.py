"""Statistics of synthetic timings."""

import pytest

from deepport.bench.spread import Spread, ratios


def test_a_spread_is_of_the_middle() -> None:
    found = Spread.of([5.0, 1.0, 2.0, 4.0, 3.0, 1000.0, 3.0])
    assert (found.median, found.least, found.most, found.n) == (3.0, 1.0, 1000.0, 7)
    assert found.mad == 1.0  # of 2, 2, 1, 1, 0, 997, 0
    assert (found.low, found.high) == (2.5, 4.5)


def test_one_measurement_has_no_dispersion() -> None:
    found = Spread.of(iter([2.5]))
    assert (found.median, found.mad, found.low, found.high, found.n) == (2.5, 0.0, 2.5, 2.5, 1)


def test_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        Spread.of([])


def test_ratios_are_taken_pair_by_pair() -> None:
    """The machine halves its speed in the middle: the ratio does not notice, that of medians would."""
    ours = [1.0, 1.0, 2.0, 2.0, 2.0]
    theirs = [3.0, 3.0, 6.0, 6.0, 6.0]
    assert ratios(theirs, ours) == Spread.of([3.0] * 5)
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])
