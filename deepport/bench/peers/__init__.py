"""Other implementations of the same model, timed in turns with ours on the same weights.

Each runs in a process of its own, which has its own threads and may crash without harm to the run, and times itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

PEERS = ("transformers", "llama.cpp")
"""Of whole models, by the names that `--against` takes."""


class Runner(Protocol):
    """One sequence of a model."""

    def reset(self) -> None:
        """Forget all tokens."""

    def feed(self, ids: Sequence[int]) -> None:
        """Compute the next tokens, as many at a time as is best, and the logits of the last."""

    def logits(self) -> Tensor:
        """Of the last token, [V] float32, on the CPU."""
