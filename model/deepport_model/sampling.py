"""Choosing the next token."""

from __future__ import annotations

import torch
from torch import Tensor

from deepport.errors import BadInput


class Sampler:
    """Greedy at temperature 0; otherwise from `softmax(logits / temperature)`, cut to its `top_p` nucleus.

    The nucleus is the fewest most probable tokens whose probability reaches top_p (arXiv 1904.09751). Draws are made on the
    host from a generator of their own, so that a seed gives the same text on every device with the same logits.
    """

    def __init__(self, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0) -> None:
        if not 0.0 <= temperature < float("inf"):
            raise BadInput(f"temperature is {temperature}; it must be 0 (greedy) or a positive number")
        if not 0.0 < top_p <= 1.0:
            raise BadInput(f"top_p is {top_p}; it must be above 0 and at most 1")
        self.temperature, self.top_p = temperature, top_p
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, logits: Tensor) -> int:
        """logits [V] -> a token id. Ties go to the lowest id."""
        logits = logits.detach().to("cpu", torch.float64)
        if not logits.isfinite().any():
            raise BadInput("the model's logits are not finite; are its weights?")
        if self.temperature == 0.0:
            return int(logits.nan_to_num(nan=-torch.inf).argmax())
        probabilities, ids = (logits / self.temperature).softmax(-1).sort(descending=True, stable=True)
        outside = probabilities.cumsum(-1) - probabilities >= self.top_p
        return int(ids[torch.multinomial(probabilities.masked_fill(outside, 0.0), 1, generator=self._generator)])
