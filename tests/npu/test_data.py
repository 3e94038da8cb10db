"""What the vendor's operators want of data is what our operators promise of theirs (operators.md, rule 7)."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from npu.simulated import run
from torch import Tensor

from deepport import ops
from deepport.ops.attention import index_arguments
from deepport.ops.moe import dispatch_arguments, route_arguments

_QUICK = settings(max_examples=40, deadline=None, derandomize=True)
_SEED = st.integers(0, 2**31)
_COUNTS = st.integers(0, 9)


def _drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@_QUICK
@given(_SEED, _COUNTS, st.integers(0, 60), st.integers(1, 40), st.booleans())
def test_chosen_entries_come_first_and_are_distinct(seed: int, length: int, first: int, k: int, tied: bool) -> None:
    """npu_sparse_flash_attention: every row's valid indices before its invalid ones."""
    parameters = {"lengths": (length, 3), "first": (first, 5), "k": k, "tied": tied, "dtype": torch.bfloat16}
    ids = ops.index_topk(**index_arguments(_drawn(seed), **parameters))[: length + 3]
    there = ids >= 0
    assert not bool((there[:, 1:] & ~there[:, :-1]).any())
    assert bool(((ids[:, 1:] > ids[:, :-1]) | ~there[:, 1:]).all())


@_QUICK
@given(_SEED, _COUNTS, st.integers(1, 8), st.booleans())
def test_copies_that_are_kept_have_places_of_their_own_before_the_others(
    seed: int, tokens: int, k: int, dropped: bool
) -> None:
    """npu_moe_token_unpermute: a permutation. npu_grouped_matmul: groups that rise, and end where the copies do."""
    found = dispatch_arguments(_drawn(seed), tokens=tokens, k=k, experts=8, dropped=dropped, dtype=torch.float32)
    _, offsets, inverse = ops.moe_dispatch(**found)
    kept = found["ids"] >= 0
    assert inverse[kept].sort().values.tolist() == list(range(int(kept.sum())))
    assert offsets.tolist() == sorted(offsets.tolist())
    assert int(offsets[-1]) == int(kept.sum())


@_QUICK
@given(_SEED, _COUNTS, st.integers(1, 8), st.sampled_from(("learned", "tied", "hash")))
def test_experts_are_distinct_and_there(seed: int, tokens: int, k: int, mode: str) -> None:
    """npu_moe_init_routing_v2: ids below the number of experts."""
    parameters = {"experts": 8, "k": k, "scoring": "sqrtsoftplus", "mode": mode, "dtype": torch.float32}
    ids: Tensor = ops.route(**route_arguments(_drawn(seed), tokens=tokens, **parameters))[1].sort().values
    assert bool(((ids >= 0) & (ids < 8)).all())
    assert bool((ids[:, 1:] > ids[:, :-1]).all())


@pytest.mark.slow
def test_the_simulator_refuses_data_that_the_vendor_forbids() -> None:
    found = json.loads(run("forbidden").splitlines()[-1])
    assert found == {
        "a key behind -1": "a key is listed behind a -1",
        "a place twice": "places are no permutation of the rows",
        "groups that end early": "the groups end at",
        "an expert that is not there": "an expert's id is not below 4",
    }
