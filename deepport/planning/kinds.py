"""A model with one layer of each kind: what a step of the whole costs follows from a step of that, in a tenth of the time."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import nn

from deepport.formats import PLAIN
from deepport_model.config import Config, EngramConfig
from deepport_model.transformer import Transformer

T = TypeVar("T")


@dataclass(frozen=True)
class Kinds:
    """`model` has one layer of each kind, with the whole model's tensors; `kind` says which, for each layer of the whole."""

    model: Transformer
    kind: tuple[int, ...]

    def spread(self, found: Iterable[tuple[str, T]]) -> Iterator[tuple[str, T]]:
        """What was found at sites of `model`, in order, as the whole model has it: `layers.1.attn` is that of all its likes."""
        before: list[tuple[str, T]] = []
        after: list[tuple[str, T]] = []
        layers: dict[int, list[tuple[str, T]]] = {}
        for site, item in found:
            index, rest = _split(site)
            if index is not None:
                layers.setdefault(index, []).append((rest, item))
            else:
                (after if layers else before).append((site, item))
        yield from before
        for whole, index in enumerate(self.kind):
            yield from ((f"layers.{whole}{rest}", item) for rest, item in layers.get(index, ()))
        yield from after


def kinds(whole: Transformer) -> Kinds:
    """Layers are of one kind that agree in shapes (and so in compression), dtypes and formats; one with a memory is its own."""
    config, chosen, kind = whole.config, dict[Any, int](), []
    first: list[int] = []
    for index, layer in enumerate(whole.layers):
        key = (_shapes(layer), index if _remembers(config, index) else -1)
        if key not in chosen:
            chosen[key] = len(first)
            first.append(index)
        kind.append(chosen[key])
    few = copy.copy(whole)
    few._modules = {**whole._modules, "layers": nn.ModuleList(whole.layers[index] for index in first)}
    few.config = _reduced(config, first)
    return Kinds(few, tuple(kind))


def _remembers(config: Config, layer: int) -> bool:
    return config.engram is not None and layer in config.engram.layer_ids


def _shapes(layer: nn.Module) -> tuple[Any, ...]:
    tensors = tuple((name, tuple(t.shape), t.dtype) for name, t in layer.state_dict().items())
    return tensors, tuple(getattr(module, "format", PLAIN) for module in layer.modules())


def _reduced(config: Config, layers: list[int]) -> Config:
    engram: EngramConfig | None = config.engram
    if engram is not None:
        engram = replace(engram, layer_ids=tuple(layers.index(layer) for layer in engram.layer_ids))
    return replace(
        config, num_hidden_layers=len(layers), compress_ratios=tuple(config.compress_ratios[i] for i in layers),
        hash_layers=tuple(config.hash_layers[i] for i in layers), engram=engram,
    )  # fmt: skip


def _split(site: str) -> tuple[int | None, str]:
    """A layer's number and the rest of the path; None where it is in no layer."""
    if not site.startswith("layers."):
        return None, site
    number, _, rest = site.removeprefix("layers.").partition(".")
    return int(number), f".{rest}" if rest else ""
