"""Is a peer the same model? Its logits, against what rounding explains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

PROMPT, STEPS = 200, 8
"""Tokens that are read at once, and then one by one: every kind of layer has entries by then."""

_FACTOR = 6.0
"""A peer may be so many times as far from us as our rounding takes us from float32. Ours rounds once an operator; transformers,
which rounds within them too, was measured to err 3 times what we do. Another mathematics is 50 times as far."""

_FLOAT32 = 1e-3
"""What is allowed to float32 itself: sums in another order differ by 1e-5, another mathematics by far more than this."""


class Sampled(Protocol):
    """What both a runner and its other end can do."""

    def reset(self) -> None: ...

    def feed(self, ids: Sequence[int]) -> object: ...

    def logits(self) -> Tensor: ...


_MOST = 0.2
"""No rounding explains more: were our own logits wrong, their distance from float32 would excuse everybody's."""


@dataclass(frozen=True)
class Comparison:
    """`difference` of a peer's logits from ours, and `own` of ours from float32; `allowed` says how much rounding explains."""

    difference: float
    own: float
    allowed: float

    @property
    def same(self) -> bool:
        return self.difference <= self.allowed  # never true of NaN


def sample(model: Sampled, ids: Sequence[int]) -> Tensor:
    """Logits [STEPS + 1, V] of a prompt's last token and of each after it."""
    model.reset()
    model.feed(ids[:PROMPT])
    found = [model.logits()]
    for id in ids[PROMPT : PROMPT + STEPS]:
        model.feed([id])
        found.append(model.logits())
    model.reset()
    return torch.stack(found)


def difference(a: Tensor, b: Tensor) -> float:
    """`|a - b| / |b|` of the median token: a near-tie of experts that falls the other way moves one token's logits far."""
    return float(((a - b).norm(dim=-1) / b.norm(dim=-1)).median())


def compare(peer: Tensor, ours: Tensor, exact: Tensor) -> Comparison:
    """`exact`: our logits of the same weights in float32."""
    own = difference(ours, exact)
    return Comparison(difference(peer, ours), own, min(max(_FACTOR * own, _FLOAT32), _MOST))
