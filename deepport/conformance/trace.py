"""One run of a model, seen from inside: residual streams after every layer, the grounds of choices, logits, gradients."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deepport.conformance.decisions import Directed
from deepport_model.training import loss
from deepport_model.transformer import Transformer, chunks


@dataclass(frozen=True)
class Script:
    """What a model is made to read: prompts as one ragged batch, `chunk` tokens of each in a step, then `new` tokens singly."""

    prompts: tuple[tuple[int, ...], ...]
    new: int
    chunk: int

    @property
    def places(self) -> list[tuple[int, int]]:
        """`(sequence, position)` of every row of a trace, in the order in which they are computed."""
        lengths = [len(p) for p in self.prompts]
        parts = chunks({s: range(n) for s, n in enumerate(lengths)}, self.chunk)
        read = [(s, p) for part in parts for s, span in part.items() for p in span]
        return read + [(s, n + step) for step in range(self.new) for s, n in enumerate(lengths)]

    @property
    def deciding(self) -> list[int]:
        """The rows whose logits decide a token after a prompt."""
        return [row for row, (s, p) in enumerate(self.places) if p >= len(self.prompts[s]) - 1]


def play(transformer: Transformer, script: Script, session: Directed) -> dict[str, Tensor]:
    """`layer 0`, ...: the residual streams [T, n, C] after it; `logits` [T, V]; and the grounds of choices (`Directed`).

    On the CPU; rows as in `script.places`.
    """
    parts: list[Tensor] = []
    with torch.inference_mode(), session, _streams(transformer) as streams:
        capacity = max(map(len, script.prompts)) + script.new
        cache = transformer.cache(len(script.prompts), capacity, script.chunk)
        last: dict[int, Tensor] = {}
        for part in chunks(dict(enumerate(script.prompts)), script.chunk):
            logits = transformer.step(cache.append(part), cache)
            rows = logits.split([len(new) for new in part.values()])
            last |= {s: found[-1] for s, found in zip(part, rows, strict=True)}
            parts.append(logits.cpu())
        for step in range(script.new):
            tokens = session.token(step, torch.stack([last[s] for s in sorted(last)]))
            logits = transformer.step(cache.append({s: [token] for s, token in enumerate(tokens)}), cache)
            last = dict(enumerate(logits))
            parts.append(logits.cpu())
    layers = {f"layer {i}": torch.cat(found) for i, found in enumerate(streams)}
    return layers | session.grounds | {"logits": torch.cat(parts)}


@contextmanager
def _streams(transformer: Transformer) -> Iterator[list[list[Tensor]]]:
    """While inside, what every layer returns, on the CPU."""
    found: list[list[Tensor]] = [[] for _ in transformer.layers]
    hooks = [
        layer.register_forward_hook(lambda _module, _inputs, output, mine=mine: mine.append(output.cpu()))
        for layer, mine in zip(transformer.layers, found, strict=True)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def gradients(transformer: Transformer, input_ids: Tensor, session: Directed) -> dict[str, Tensor]:
    """The loss's gradient by every parameter, by name and on the CPU; an empty tensor where there is none.

    input_ids [B, S+1] int64.
    """
    transformer.zero_grad()
    with session:
        loss(transformer, input_ids.to(transformer.device)).backward()
    found = {n: torch.empty(0) if p.grad is None else p.grad.cpu() for n, p in transformer.named_parameters()}
    transformer.zero_grad()
    return found


def widened(transformer: Transformer, dtype: torch.dtype = torch.float64) -> Transformer:
    """The same model computing in a wider dtype, on the same weights: a model computes in the dtype of its embeddings."""
    wide = copy.copy(transformer)
    wide._modules = dict(transformer._modules)
    wide.embed = nn.Embedding.from_pretrained(transformer.embed.weight.detach().to(dtype))
    return wide


def on_host(transformer: Transformer) -> Transformer:
    """The same model with its weights in the host's memory; on the CPU they are shared, not copied."""
    weights = {id(p): nn.Parameter(p.detach().cpu(), requires_grad=False) for p in transformer.parameters()}
    return copy.deepcopy(transformer, {**weights, **{id(b): b.cpu() for b in transformer.buffers()}})
