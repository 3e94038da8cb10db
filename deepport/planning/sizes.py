"""What a model keeps in memory, class by class: its own parameters, buffers, caches and results, all on meta."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from deepport import formats
from deepport_model.transformer import Transformer

Placement = Literal["device", "host", "mmap"]
"""Where Engram's tables lie: `mmap` is a file that the host maps, and reads as rows are asked for."""

TABLES = "engram tables"
ACTIVATIONS = "activations"
KEPT = "kernels' own"
"""What kernels need for themselves and keep from call to call, of backends whose kernels are here and tell it: cpu."""
_CACHES = ("window cache", "compressed cache", "indexer keys", "compressor state", "engram state", "page tables")


@dataclass(frozen=True)
class Part:
    """Bytes of one class in all. Those that are `divided` lie evenly on the devices; each device has the others whole."""

    name: str
    bytes: int
    place: Placement = "device"
    divided: bool = True


@dataclass(frozen=True)
class Sizes:
    """All parts of a model that serves so many sequences of so many tokens."""

    parts: tuple[Part, ...]

    def device(self, devices: int) -> int:
        """Bytes on each of so many devices, rounded up."""
        return sum(self.share(part, devices) for part in self.parts)

    def share(self, part: Part, devices: int) -> int:
        """Bytes of a part on each device."""
        if part.place != "device":
            return 0
        return -(-part.bytes // devices) if part.divided else part.bytes

    def elsewhere(self, place: Placement) -> int:
        return sum(part.bytes for part in self.parts if part.place == place)


def sizes(
    transformer: Transformer, sequences: int, context: int, chunk: int, engram: Placement, peak: int, own: int = 0
) -> Sizes:
    """`chunk`: new tokens in one step at most; `peak`: bytes of what the largest step makes (`deepport.planning.trace`), `own`:
    of what kernels keep for themselves.
    """
    found: dict[str, int] = defaultdict(int)
    for name, tensor in weights(transformer):
        found[name] += tensor.nbytes
    parts = [Part(name, size, engram if name == TABLES else "device") for name, size in sorted(found.items())]
    kept: dict[str, int] = defaultdict(int)
    for name, tensor in transformer.cache(sequences, context, chunk).held():
        kept[name] += tensor.nbytes
    parts += [Part(name, kept[name]) for name in _CACHES if kept[name]]
    parts += [Part(name, size, divided=False) for name, size in ((ACTIVATIONS, peak), (KEPT, own)) if size]
    return Sizes(tuple(parts))


def weights(transformer: Transformer) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer, by the class it belongs to: `weights bfloat16`, `weights mxfp4`, `engram tables`."""
    for owner, module in transformer.named_modules():
        format = getattr(module, "format", formats.PLAIN)
        own = (*module._parameters.items(), *module._buffers.items())
        for leaf, tensor in own:
            if tensor is None or leaf == "load":  # the experts' load is counted on the host, in training
                continue
            if owner.endswith(".engram.table"):
                yield TABLES, tensor
            else:
                yield f"weights {_kind(tensor, leaf, format)}", tensor


def _kind(tensor: Tensor, leaf: str, format: str) -> str:
    quantised = format != formats.PLAIN and (leaf.endswith("scale") or tensor.dtype == formats.parse(format).dtype)
    return format if quantised else str(tensor.dtype).removeprefix("torch.")


def parameters(transformer: Transformer) -> tuple[int, int]:
    """Of the backbone, and of Engram's tables; scales are none."""
    found = {False: 0, True: 0}
    for name, tensor in transformer.named_parameters():
        owner, _, leaf = name.rpartition(".")
        format = getattr(transformer.get_submodule(owner), "format", formats.PLAIN)
        quantised = format != formats.PLAIN
        if quantised and leaf.endswith("scale"):
            continue
        found[owner.endswith(".engram.table")] += tensor.numel() * (formats.parse(format).packing if quantised else 1)
    return found[False], found[True]
