"""Gate G5 accepts right choices, however they are computed, and names what is wrong with others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from deepport import ops
from deepport.conformance.contract import contract_of
from deepport.conformance.oracle import listed, widened
from deepport.ops.attention import index_arguments
from deepport.ops.moe import route_arguments

Arguments = dict[str, Any]


def failing(operator: str, arguments: Arguments, outputs: list[Tensor]) -> dict[str, str]:
    selection = contract_of(operator).selection
    assert selection is not None
    found, _ = selection(arguments, outputs)
    assert all(g.gate == "G5" for g in found)
    return {g.metric: g.detail for g in found if g.status == "fail"}


def index(seed: int = 0, dtype: torch.dtype = torch.float32, k: int = 8, **given: Any) -> Arguments:
    g = torch.Generator().manual_seed(seed)
    return index_arguments(g, lengths=(40, 0, 3), first=(100, 7, 0), k=k, tied=False, dtype=dtype, **given)


def chosen(arguments: Arguments) -> Tensor:
    return ops.index_topk.reference(**arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("heads", [1, 8, 64])
@pytest.mark.parametrize("seed", range(3))
def test_references_choose_rightly(seed: int, heads: int, dtype: torch.dtype) -> None:
    arguments = index(seed, dtype, heads=heads, size=128)
    rows = arguments["pages"].flatten(0, 1)
    rows[1::3] = rows[::3][: len(rows[1::3])]  # identical keys
    for given in (arguments, widened(arguments)):
        assert not failing("index_topk", arguments, [chosen(given)])


def scores(arguments: Arguments, row: int) -> Tensor:
    """Of the first sequence's token `row`, in float64."""
    ready = int(arguments["positions"][row] + 1) // arguments["ratio"]
    flat = arguments["pages"].flatten(0, 1).double()
    keys = flat[[int(arguments["table"][0, s // 8]) * 8 + s % 8 for s in range(ready)]]
    return (arguments["q"][row].double() @ keys.T).relu().T @ arguments["weights"][row].double()


def swapped(arguments: Arguments, row: int, new: int) -> Tensor:
    """The choice with the worst id of a row replaced."""
    ids = chosen(arguments)
    worst = min(ids[row].tolist(), key=lambda i: float(scores(arguments, row)[i]))
    left = [i for i in ids[row].tolist() if i != worst]
    ids[row] = torch.tensor(sorted([*left, new]))
    return ids


def test_a_worse_candidate_is_seen_and_named() -> None:
    arguments, row = index(), 30
    order = scores(arguments, row).argsort(descending=True).tolist()
    found = failing("index_topk", arguments, [swapped(arguments, row, order[8])])
    assert found.keys() == {"regret, in error bounds"}
    assert f"row 30 has {order[8]} and not {order[7]}" in found["regret, in error bounds"]


def test_scores_rounded_to_bfloat16_are_seen() -> None:
    """As by a kernel that sums over heads in the activations' dtype."""
    g = torch.Generator().manual_seed(0)
    arguments = index_arguments(
        g, lengths=(4,), first=(2400,), k=64, tied=False, dtype=torch.bfloat16, heads=8, size=128
    )
    ids = chosen(arguments)
    assert not failing("index_topk", arguments, [ids])
    for row in range(4):
        rounded = scores(arguments, row).bfloat16()
        ids[row] = rounded.sort(descending=True, stable=True).indices[:64].sort().values
    assert failing("index_topk", arguments, [ids]).keys() == {"regret, in error bounds"}


@pytest.mark.parametrize(
    ("row", "metric"),
    [
        ([3, 3, 9, 12, 14, 18, 20, 21], "distinct"),
        ([9, 3, 10, 12, 14, 18, 20, 21], "ascending, then -1"),
        ([-1, 3, 10, 12, 14, 18, 20, 21], "ascending, then -1"),
        ([3, 10, 12, 14, 18, 20, 21, 30], "causal"),
        ([3, 10, 12, 14, 18, 20, 21, 2071690107], "ids in range"),
        ([-7, 10, 12, 14, 18, 20, 21, 24], "ids in range"),
        ([3, 10, 12, 14, 18, 20, -1, -1], "number of ids"),
    ],
)
def test_a_row_of_another_shape_is_seen(row: list[int], metric: str) -> None:
    arguments = index()
    ids = chosen(arguments)
    assert int(arguments["positions"][19] + 1) // 4 == 30
    ids[19] = torch.tensor(row)
    assert "row 19 has the ids" in failing("index_topk", arguments, [ids])[metric]


@pytest.mark.parametrize("value", [0, -1, 7, 2071690107, -(2**31)])
def test_nonsense_is_no_error(value: int) -> None:
    arguments = index()
    assert failing("index_topk", arguments, [torch.full_like(chosen(arguments), value)])
    routed = routing("learned")
    weights, ids = ops.route.reference(**routed)
    assert failing("route", routed, [weights * torch.nan, torch.full_like(ids, value)])


def test_reversed_ties_are_seen() -> None:
    arguments = index()
    arguments["pages"][:] = 1.0
    ids = chosen(arguments)
    ids[5] = torch.arange(17, 25, dtype=torch.int32)
    found = failing("index_topk", arguments, [ids])
    assert found == {"ties by lowest id": "row 5 has 24 and not 0, which scores the same"}


def test_scores_of_zero_are_ties() -> None:
    arguments = index()
    arguments["q"], arguments["pages"] = arguments["q"].abs(), -arguments["pages"].abs()
    ids = chosen(arguments)
    assert ids[5].tolist() == list(range(8))
    ids[5, 7] = 9
    assert failing("index_topk", arguments, [ids]).keys() == {"ties by lowest id"}


def test_a_chosen_nan_is_seen() -> None:
    arguments = index()
    arguments["pages"].flatten(0, 1)[int(arguments["table"][0, 0]) * 8 + 2] = torch.nan
    ids = chosen(arguments)
    assert not failing("index_topk", arguments, [ids])
    assert not (ids[:40] == 2).any()
    ids[5] = torch.tensor([2, *[i for i in ids[5].tolist() if i > 2][-7:]])
    assert "NaN is never chosen" in failing("index_topk", arguments, [ids])


def test_an_infinite_key_is_chosen_by_everybody() -> None:
    arguments = index()
    arguments["q"], arguments["weights"] = arguments["q"].abs(), arguments["weights"].abs()
    arguments["pages"].flatten(0, 1)[int(arguments["table"][0, 0]) * 8 + 2] = torch.inf
    assert (chosen(arguments)[:40] == 2).any(1).all()
    assert not failing("index_topk", arguments, [chosen(arguments)])
    without = dict(arguments, pages=arguments["pages"].nan_to_num(posinf=0.0))
    assert "regret, in error bounds" in failing("index_topk", arguments, [chosen(without)])


def routing(mode: str, scoring: str = "sqrtsoftplus", seed: int = 0, dtype: torch.dtype = torch.float32) -> Arguments:
    g = torch.Generator().manual_seed(seed)
    return route_arguments(g, tokens=17, experts=64, k=6, scoring=scoring, mode=mode, dtype=dtype)


@pytest.mark.parametrize("scoring", ["sqrtsoftplus", "sigmoid", "softmax"])
@pytest.mark.parametrize("mode", ["learned", "bare", "tied", "hash"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_references_route_rightly(scoring: str, mode: str, dtype: torch.dtype) -> None:
    arguments = routing(mode, scoring, dtype=dtype)
    for given in (arguments, widened(arguments)):
        assert not failing("route", arguments, listed(ops.route.reference(**given)))


@pytest.mark.parametrize("mode", ["learned", "bare"])
@pytest.mark.parametrize("scoring", ["sqrtsoftplus", "sigmoid", "softmax"])
def test_a_worse_expert_is_seen(mode: str, scoring: str) -> None:
    arguments = routing(mode, scoring)
    weights, ids = ops.route.reference(**dict(arguments, k=7))
    ids = torch.cat((ids[:, :5], ids[:, 6:]), 1)
    assert "regret, in error bounds" in failing("route", arguments, [weights[:, :6], ids])


def test_a_repeated_expert_is_seen() -> None:
    arguments = routing("learned")
    weights, ids = ops.route.reference(**arguments)
    ids[3, 1] = ids[3, 0]
    assert "row 3 has the ids" in failing("route", arguments, [weights, ids])["distinct"]


def test_reversed_ties_of_experts_are_seen() -> None:
    arguments = routing("tied")
    weights, ids = ops.route.reference(**arguments)
    assert failing("route", arguments, [weights, 63 - ids]).keys() == {"ties by lowest id"}


def test_hashed_experts_are_exact() -> None:
    arguments = routing("hash")
    weights, ids = ops.route.reference(**arguments)
    assert failing("route", arguments, [weights, ids.flip(1)]).keys() == {"ids of the table"}


def test_weights_are_judged_for_the_choice_that_was_made() -> None:
    """The arguments that come back choose those experts, in that order."""
    selection, arguments = contract_of("route").selection, routing("learned")
    assert selection is not None
    weights, ids = ops.route.reference(**arguments)
    _, given = selection(arguments, [weights.flip(1), ids.flip(1)])
    again = ops.route.reference(**given)
    assert torch.equal(again[1], ids.flip(1))
    torch.testing.assert_close(again[0], weights.flip(1))
