"""Random weights in the number formats of real checkpoints, by our own quantisation."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deepport import formats, ops
from deepport.errors import BadInput
from deepport_model.checkpoint.names import scale_name
from deepport_model.engram import EngramTable
from deepport_model.modules import BlockLinear, Linear
from deepport_model.moe import Experts
from deepport_model.transformer import Transformer

_WORDS = {"plain": formats.PLAIN, "fp8": "fp8_e4m3:128x128", "int8": "int8:row", "mxfp4": "mxfp4"}
_ROWS = {**_WORDS, "fp8": "fp8_e4m3:1x32"}
"""Of tables, whose blocks lie within a row."""

Quantisable = Linear | Experts | EngramTable


@dataclass(frozen=True)
class Formats:
    """`EXPERTS+DENSE+TABLES`: of the routed experts' weights, the linear layers' and Engram's; the embedding stays plain.

    What is not named stays plain.
    """

    experts: str = formats.PLAIN
    dense: str = formats.PLAIN
    tables: str = formats.PLAIN

    @classmethod
    def parse(cls, text: str) -> Formats:
        first, *rest = text.split("+")
        words = [first, *(word or "plain" for word in rest)]
        if wrong := [word for word in words if word not in _WORDS]:
            raise BadInput(f"--format {text}: {wrong[0]!r} is none of {', '.join(_WORDS)}; as in mxfp4+int8")
        if len(words) > 3:
            raise BadInput(f"--format {text}: names {len(words)} formats; there are experts, dense layers and tables")
        experts, dense, tables = (*words, "plain", "plain")[:3]
        return cls(_WORDS[experts], _WORDS[dense], _ROWS[tables])

    def of(self, module: nn.Module) -> str:
        if isinstance(module, EngramTable):
            return self.tables
        return self.experts if isinstance(module, Experts) else self.dense

    @property
    def plain(self) -> bool:
        return self == Formats()


@torch.no_grad()
def quantise(model: Transformer, wanted: Formats) -> Transformer:
    """Replace the weights by their nearest in these formats, in place."""
    for owner, leaf, module in _weights(model):
        if (format := wanted.of(module)) != formats.PLAIN and module.format == formats.PLAIN:
            _check(owner, module, format)
            data, scale = _encode(getattr(module, leaf), format)
            _assign(module, leaf, data, scale, owner)
    for module in {m for _, _, m in _weights(model)}:
        if module.format == formats.PLAIN:
            module.format = wanted.of(module)
    return model


@torch.no_grad()
def dequantised(model: Transformer, dtype: torch.dtype) -> Transformer:
    """The same model with the same values in plain weights; the original stays as it is, and shares what was plain."""
    found = copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})
    for owner, leaf, module in _weights(found):
        data, scale = getattr(module, leaf), getattr(module, _scale_of(owner, leaf))
        if scale is not None:
            setattr(module, leaf, nn.Parameter(formats.decode(data, scale, module.format, dtype), requires_grad=False))
            setattr(module, _scale_of(owner, leaf), None)
    for _, _, module in _weights(found):
        module.format = formats.PLAIN
    return found


def _weights(model: Transformer) -> list[tuple[str, str, Quantisable]]:
    """`(owner, leaf, module)` of every weight that may be quantised."""
    found: list[tuple[str, str, Quantisable]] = []
    for owner, module in model.named_modules():
        if isinstance(module, Experts):
            found += ((owner, leaf, module) for leaf in ("w13", "w2"))
        elif isinstance(module, EngramTable):
            found.append((owner, "rows", module))
        elif isinstance(module, Linear):
            found.append((owner, "weight", module))
    return found


def _scale_of(owner: str, leaf: str) -> str:
    return str(scale_name(f"{owner}.{leaf}")).rpartition(".")[2]


def _check(owner: str, module: Quantisable, format: str) -> None:
    """A weight of several matrices is quantised as a stack of them: no scale may span two."""
    block = formats.parse(format).rows
    if isinstance(module, BlockLinear) and (rows := len(module.weight) // module.groups) % max(block, 1):
        raise BadInput(f"--format: {owner} has groups of {rows} rows, which blocks of {format} would straddle")


def _encode(weight: Tensor, format: str) -> tuple[Tensor, Tensor]:
    """Matrix by matrix: a model's experts in float32, all at once, may not fit."""
    if weight.dim() == 2 or weight.is_meta:
        return ops.quantize(weight, format)
    data, scales = zip(*(ops.quantize(matrix, format) for matrix in weight), strict=True)
    return _stack(data), _stack(scales)


def _stack(parts: tuple[Tensor, ...]) -> Tensor:
    if parts[0].element_size() > 1:
        return torch.stack(parts)
    return torch.stack([p.view(torch.uint8) for p in parts]).view(parts[0].dtype)


def _assign(module: Quantisable, leaf: str, data: Tensor, scale: Tensor, owner: str) -> None:
    setattr(module, leaf, nn.Parameter(data, requires_grad=False))
    setattr(module, _scale_of(owner, leaf), nn.Parameter(scale, requires_grad=False))
