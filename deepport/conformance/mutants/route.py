"""Mutants of the choice of experts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from deepport.conformance.mutants.mutant import Given, Mutant, answered, asked, differentiated, written
from deepport.ops import route
from deepport.ops.moe import SCORING


def mutants() -> Iterator[Mutant]:
    yield from _route()
    yield from _gradients()


def _route() -> Iterator[Mutant]:
    yield answered(route, "bias_in_the_weights", "the bias is added to the weights too", _biased)
    yield answered(route, "not_normalised", "weights are not divided by their sum", _unnormalised)
    yield answered(route, "normalised_over_all", "weights are divided by the sum over all experts", _over_all)
    yield asked(route, "unscaled", "the routing scale is ignored", lambda g: {"scale": 1.0})
    yield asked(route, "softplus_without_root", "the square root of softplus is missing", _squared)
    yield asked(route, "chooses_without_bias", "the bias does not change the choice", lambda g: {"bias": None})
    yield asked(route, "token_off_by_one", "the table is read for the token before", _shifted_ids)
    yield written(route, "reverses_ties", "ties go to the highest id", _reversed_ties)


def _scores(given: Given) -> Tensor:
    return SCORING[given["scoring"]](given["logits"].float())


def _biased(results: list[Tensor], given: Given) -> Any:
    if given["bias"] is None:
        return results
    weights = (_scores(given) + given["bias"]).gather(1, results[1].long())
    return [weights / (weights.sum(-1, keepdim=True) + 1e-20) * given["scale"], results[1]]


def _unnormalised(results: list[Tensor], given: Given) -> Any:
    return [_scores(given).gather(1, results[1].long()) * given["scale"], results[1]]


def _over_all(results: list[Tensor], given: Given) -> Any:
    scores = _scores(given)
    return [scores.gather(1, results[1].long()) / (scores.sum(-1, keepdim=True) + 1e-20) * given["scale"], results[1]]


def _squared(given: Given) -> Given:
    """Logits whose sqrt(softplus) is the softplus of those given."""
    if given["scoring"] != "sqrtsoftplus":
        return {}
    square = functional.softplus(given["logits"].double(), threshold=40.0).square()
    return {"logits": torch.log(torch.expm1(square)).float()}


def _shifted_ids(given: Given) -> Given:
    return {} if given["input_ids"] is None else {"input_ids": (given["input_ids"] - 1).clamp(min=0)}


def _reversed_ties(
    logits: Tensor,
    bias: Tensor | None,
    k: int,
    scoring: str,
    scale: float,
    table: Tensor | None,
    input_ids: Tensor | None,
) -> tuple[Tensor, Tensor]:
    scores = _scores({"scoring": scoring, "logits": logits})
    ranked = scores if bias is None else scores + bias
    last = scores.shape[1] - 1
    found = last - ranked.flip(1).sort(dim=-1, descending=True, stable=True).indices[:, :k]
    ids = found if table is None or input_ids is None else table[input_ids]
    weights = scores.gather(1, ids)
    return weights / (weights.sum(-1, keepdim=True) + 1e-20) * scale, ids.int()


def _gradients() -> Iterator[Mutant]:
    def constant_sum(**given: Any) -> Any:
        _, ids = routed(**given)
        scores = _scores(given)
        chosen = scores.gather(1, ids.long())
        return chosen / (chosen.sum(-1, keepdim=True).detach() + 1e-20) * given["scale"], ids

    routed = route.reference
    yield differentiated(route, "constant_sum", "the sum that normalises is held constant", constant_sum)
