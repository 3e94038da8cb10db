"""The gates on synthetic numbers: every honest way to sum and to round passes, and each fault fails by the gate made for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deepport import ops
from deepport.conformance import gates
from deepport.conformance.mutants.dense import narrow_sum
from deepport.conformance.oracle import sensitivity, truth
from deepport.spec import ROUNDED_ONCE, Tolerance

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SUM = Tolerance("a sum")
ONCE = Tolerance("float32 up to one rounding", rms=ROUNDED_ONCE)


def failing(got: Tensor, oracle: Tensor, yardstick: Tensor, tolerance: Tolerance = SUM) -> set[str]:
    """`G2 rms`, `G3 worst row`, ... of the gates that fail."""
    found = gates.numeric("", got, oracle, yardstick, tolerance, None)
    return {f"{g.gate}{g.metric}" for g in found if g.status == "fail"}


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def in_order(products: Tensor) -> Tensor:
    total = torch.zeros(len(products))
    for column in products.T:
        total = total + column
    return total


def fused(x: Tensor, w: Tensor) -> Tensor:
    """Multiply-add with one rounding."""
    total = torch.zeros(len(x), dtype=torch.float64)
    for a, b in zip(x.double().T, w.double().T, strict=True):
        total = (total + a * b).float().double()
    return total.float()


def in_pairs(products: Tensor) -> Tensor:
    while products.shape[1] > 1:
        products = torch.nn.functional.pad(products, (0, products.shape[1] % 2))
        products = products[:, 0::2] + products[:, 1::2]
    return products[:, 0]


def by_lanes(products: Tensor, lanes: int) -> Tensor:
    padded = torch.nn.functional.pad(products, (0, -products.shape[1] % lanes)).unflatten(1, (-1, lanes))
    total = torch.zeros(len(products), lanes)
    for row in padded.unbind(1):
        total = total + row
    return in_order(total)


def honest_sums(x: Tensor, w: Tensor, seed: int) -> Iterator[Tensor]:
    """`(x * w).sum(1)` in float32 as kernels do it."""
    products = x.float() * w.float()
    shuffled = products[:, torch.randperm(products.shape[1], generator=torch.Generator().manual_seed(seed))]
    yield in_order(products)
    yield in_order(shuffled)
    yield fused(x, w)
    yield in_pairs(products)
    yield by_lanes(products, 8)
    yield by_lanes(shuffled, 32)
    yield (x.double() * w.double()).sum(1).float()


def sums(seed: int, rows: int, columns: int, terms: int, sign: bool) -> tuple[Tensor, Tensor]:
    """Factors of the terms of `rows x columns` sums; without a sign nothing cancels."""
    x, w = normal(seed, rows * columns, terms), normal(seed + 1, rows * columns, terms)
    return (x, w) if sign else (x.abs(), w.abs())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_honest_sum_passes(dtype: torch.dtype) -> None:
    """No false alarm among 1,050 kernels a dtype: seven orders, with and without cancellation, one rounding at the end."""
    kernels, seed = 0, 0
    for rows, columns, terms in ((1, 4, 64), (2, 4, 256), (25, 40, 64), (10, 8, 500), (100, 1, 16)):
        for sign in (True, False) * 15:
            seed += 2
            x, w = (t.to(dtype) for t in sums(seed, rows, columns, terms, sign))
            oracle = (x.double() * w.double()).sum(1).view(rows, columns)
            yardstick = torch.bmm(x.float()[:, None], w.float()[:, :, None]).view(rows, columns).to(dtype)
            for total in honest_sums(x, w, seed):
                kernels += 1
                assert not failing(total.view(rows, columns).to(dtype), oracle, yardstick), (rows, columns, terms, seed)
    assert kernels == 1050


@pytest.mark.parametrize("terms", [64, 256])
def test_a_lone_sum_is_measured_by_what_rounding_does_to_it(terms: int) -> None:
    """Where its terms cancel, the yardstick may be right by luck, and every other order of the sum be far off."""
    alarms = {0.0: 0, 1.0: 0}
    for seed in range(0, 300, 2):
        x, w = (t.float() for t in sums(seed, 1, 1, terms, sign=True))
        given = {"x": x, "w": w, "scale": None, "format": "plain"}
        found = truth(ops.linear, given)
        least = sensitivity(ops.linear, given, 0, found.oracle[0])
        for total in honest_sums(x, w, seed):
            for share in alarms:
                judged = gates.numeric(
                    "", total[None], found.oracle[0], found.yardstick[0], SUM, None, least=share * least
                )
                alarms[share] += any(g.status == "fail" for g in judged)
    assert alarms[1.0] == 0 < alarms[0.0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (1, 8), (100, 10), (1000, 1000)], ids=str)
def test_one_rounding_passes(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    """Also of a single number, whose yardstick may be exact, and where roundings before it differ by two ulp of float32."""
    for seed in range(100 if shape[0] < 1000 else 1):
        exact = normal(seed, *shape)
        near = exact * (1 + normal(seed + 1, *shape).clamp(-2, 2) * 2**-24)
        assert not failing(near.float().to(dtype), exact, exact.float().to(dtype), ONCE)
        assert not failing(exact.to(dtype), exact, near.float().to(dtype), ONCE)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.floats(-1e30, 1e30, allow_nan=False), min_size=1, max_size=40),
    st.sampled_from((torch.float32, torch.bfloat16)),
)
def test_the_nearest_number_always_passes(values: list[float], dtype: torch.dtype) -> None:
    exact = torch.tensor(values, dtype=torch.float64)[None]
    right = exact.float().to(dtype)
    assert not failing(right, exact, right, ONCE)


@settings(deadline=None, max_examples=50)
@given(st.integers(-60, 60), st.integers(0, 10**6))
def test_a_power_of_two_changes_nothing(exponent: int, seed: int) -> None:
    exact, factor = normal(seed, 6, 16), 2.0**exponent
    got, right = (exact + normal(seed + 1, 6, 16) * 2**-7).bfloat16(), exact.bfloat16()
    assert failing(got, exact, right) == failing(got * factor, exact * factor, right * factor)


@pytest.mark.parametrize("terms", [256, 512, 2048, 7168])
def test_a_sum_in_bfloat16_fails(terms: int) -> None:
    """Tile by tile: between two tiles the sum is rounded. The common gates pass it (design: conformance)."""
    x, w = normal(1, 16, terms).bfloat16(), normal(2, 64, terms).bfloat16()
    oracle = x.double() @ w.double().T
    yardstick = (x.float() @ w.float().T).bfloat16()
    assert not failing(yardstick.clone(), oracle, yardstick)
    assert {"G2 rms", "G2 mean"} <= failing(narrow_sum(x, w), oracle, yardstick)


def rounded_errors(seed: int, *shape: int, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor]:
    """A right output and its oracle."""
    exact = normal(seed, *shape)
    return exact.to(dtype), exact


def zeroed_row(t: Tensor) -> None:
    t[2049] = 0


def one_wrong_element(t: Tensor) -> None:
    t[7, 3] = t[7, 3] + 0.25


def swapped_rows(t: Tensor) -> None:
    t[[5, 6]] = t[[6, 5]]


def negated(t: Tensor) -> None:
    t[11, 4] = -t[11, 4] - 1


@pytest.mark.parametrize("fault", [zeroed_row, one_wrong_element, swapped_rows, negated])
def test_one_place_in_4096_rows_fails(fault: Callable[[Tensor], None]) -> None:
    right, exact = rounded_errors(3, 4096, 64)
    got = right.clone()
    fault(got)
    assert failing(got, exact, right) & {"G2 max", "G3 worst row"}


def test_a_small_row_is_measured_by_itself() -> None:
    """A row a thousand times smaller than the others may not vanish beside them, but a short one may."""
    for columns, seen in ((64, True), (4, False)):
        exact = normal(4, 32, columns)
        exact[9] *= 1e-3
        right = exact.bfloat16()
        got = right.clone()
        got[9] = 0
        assert (failing(got, exact, right) == {"G3 worst row"}) is seen


def test_rows_of_gradients_have_no_scale_of_their_own() -> None:
    """What cancels to 0 in the oracle is what is left of large terms in a kernel."""
    exact = normal(5, 32, 64)
    exact[9] = 0
    right = exact.bfloat16()
    got = right.clone()
    got[9] = normal(6, 64) * 2**-9
    assert failing(got, exact, right) == {"G3 worst row"}
    own = gates.numeric("", got, exact, right, SUM, None, own_rows=False)
    assert all(g.status == "pass" for g in own)


def test_all_zeros_fail_at_the_size_of_a_softmax() -> None:
    exact = normal(7, 4, 8192).softmax(-1)
    for dtype in DTYPES:
        assert failing(torch.zeros(4, 8192, dtype=dtype), exact, exact.to(dtype)) >= {"G2 rms", "G2 mean"}


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_truncation_is_lopsided(scale: float) -> None:
    exact = normal(8, 16, 64) * scale
    cut = (exact.float().view(torch.int32) & ~0xFFFF).view(torch.float32).bfloat16()
    assert "G4 towards zero" in failing(cut, exact, exact.bfloat16())
    up = torch.where(cut.double() < exact, torch.nextafter(cut, torch.full_like(cut, torch.inf)), cut)
    assert "G4 upwards" in failing(up, exact, exact.bfloat16())


def test_lopsidedness_needs_more_than_chance() -> None:
    """A handful of errors of one sign prove nothing."""
    exact = torch.tensor([[1.001, 1.002, 1.003]], dtype=torch.float64)
    assert not failing(exact.bfloat16(), exact, exact.bfloat16())


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_where_the_yardstick_has_it(wrong: float) -> None:
    right, exact = rounded_errors(9, 8, 8)
    got = right.clone()
    got[3, 3] = wrong
    assert failing(got, exact, right) == {"G0 infinities and NaN"}
    assert failing(right, exact, got) == {"G0 infinities and NaN"}
    assert not failing(got, torch.where(got.isfinite(), exact, got.double()), got)


def test_infinities_have_a_sign() -> None:
    one = torch.full((2, 2), torch.inf)
    assert failing(-one, one.double(), one) == {"G0 infinities and NaN"}
    assert not failing(one.clone(), one.double(), one)


def test_negative_zero_is_zero_where_numbers_are_compared_and_not_where_bits_are() -> None:
    zero = torch.zeros(3)
    assert not failing(-zero, zero.double(), zero)
    assert gates.exact("", -zero, zero, None)[0].status == "fail"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_subnormal_numbers_may_be_flushed(dtype: torch.dtype) -> None:
    least = torch.finfo(dtype).smallest_normal
    exact = normal(10, 4, 64).clamp(-0.9, 0.9) * least
    right = exact.to(dtype)
    assert not failing(torch.zeros_like(right), exact, right)
    right, exact = right * 4, exact * 4
    flushed = torch.where(right.abs() < least, 0.0, right)
    assert not failing(flushed, exact, right)
    assert failing(torch.zeros_like(right), exact, right)


def test_small_numbers_of_float16_count() -> None:
    """Its least normal number is 6.1e-5; errors of a tenth of that are six units in the last place of 0.01."""
    exact = normal(11, 16, 64) * 1e-2
    right = exact.half()
    assert failing((exact * 1.02).half(), exact, right)


def test_exact_bits() -> None:
    for dtype in (torch.int32, torch.float8_e4m3fn, torch.bfloat16, torch.bool):
        right = (normal(12, 5, 6) > 0).float().to(dtype)
        assert gates.exact("", right.clone(), right, None)[0].status == "pass"
        other = (right.float() == 0).float().to(dtype)
        (found,) = gates.exact("out", other, right, None)
        assert found.status == "fail" and found.value == 30
        assert gates.exact("", other, right, torch.ones(5, 6, dtype=torch.bool))[0].status == "pass"
    nan = torch.tensor([torch.nan])
    assert gates.exact("", -nan, nan, None)[0].status == "pass"


def test_what_is_free_is_not_judged() -> None:
    right, exact = rounded_errors(13, 8, 8)
    got, free = right.clone(), torch.zeros(8, 8, dtype=torch.bool)
    got[2], free[2] = torch.nan, True
    found = gates.numeric("", got, exact, right, SUM, free)
    assert all(g.status == "pass" for g in found)


def test_an_output_that_is_not_a_number_is_past_every_bound() -> None:
    right, exact = rounded_errors(14, 4, 4)
    assert failing(torch.full_like(right, torch.nan), exact, right) == {"G0 infinities and NaN"}
