"""Dry runs: the model's own code at any size, on addresses without memory behind them.

`python -m deepport_sim.dry v4-pro --format mxfp4+fp8 --context 131072` says in seconds what a device of 15 TB would hold, by
class and at the peak: of weights and caches every byte that is allocated, and of a step every tensor that is made. What an
operator needs for itself while it computes is its kernel's affair, and not counted.

Engram's tables that lie on the host are addresses without memory, too: a sparse file's. Their rows come as they do in a run, by
`deepport.table`: gathered by its thread, staged, and copied by a stream of their own. Which rows nobody has computed: all are 0.
"""

from __future__ import annotations

import argparse
import gc
import mmap
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from deepport import backend
from deepport.errors import BadInput
from deepport.kernel import Kernel
from deepport.op import operators
from deepport.paper import OnPaper
from deepport.planning.plan import in_format
from deepport.planning.sizes import ACTIVATIONS, TABLES, Placement, weights
from deepport.planning.trace import GATHER
from deepport.policy import Session
from deepport.runtime import HostRuntime
from deepport_model.engram import EngramHash, EngramTable
from deepport_model.transformer import Transformer
from deepport_sim import device
from deepport_sim.kernels import shapes

MEMORY = 15 << 40
"""Bytes of the device: its addresses that have no memory."""

_HASH = "engram_hash"


@dataclass(frozen=True)
class Peak:
    """Bytes by class, in the order in which they are allocated; the activations are what is beyond the rest at the peak.

    `elsewhere` is not on the device.
    """

    parts: dict[str, int]
    elsewhere: dict[str, int]

    @property
    def bytes(self) -> int:
        return sum(self.parts.values())


class _Shapes(OnPaper):
    """Every operator, by its shape rule alone. Tables on the host are looked up there, by rows which it can read."""

    def __init__(self, engram: Placement) -> None:
        self.name, self.device_type = "sim", device.NAME
        self.basis = "shapes only"
        forward = [operator for name, operator in operators.items() if not name.endswith("_backward")]
        made = {operator.name: shapes(operator) for operator in forward}
        if engram != "device":
            del made[GATHER]
            made[_HASH] = _first_rows()
        self.kernels = backend.accepted("sim", list(made.values()))


def _first_rows() -> Kernel:
    """Row 0 for every n-gram, on the host."""
    operator = operators[_HASH]

    def run(*given: Any) -> Tensor:
        found: Tensor = operator.fake(*tree_map_only(Tensor, lambda t: torch.empty_like(t, device="meta"), given))
        return torch.zeros_like(found, device="cpu")

    return Kernel(_HASH, "first rows", wraps(operator.reference)(run))


def dry(transformer: Transformer, sequences: int, context: int, chunk: int, engram: Placement = "device") -> Peak:
    """What a model, given on meta, takes on one device: its weights, its sequences' memory for `context` tokens each, and the
    larger of two steps, a prompt's of `chunk` new tokens and a decoding one of every sequence; `engram`: where tables lie.

    The transformer is on the device afterwards, without data. Raises BadInput for a context that the model has not got.
    """
    backend.start("sim")
    chunk = min(chunk, context)
    gc.collect()  # models are cycles: one that is given up later would be counted as less of this one
    with _dry_device(), torch.inference_mode(), Session(backend=_Shapes(engram)):
        elsewhere = {} if engram == "device" else _far(transformer, engram)
        parts = _placed(transformer)
        before = torch.accelerator.memory_allocated()
        cache = transformer.cache(sequences, context, chunk)
        held, used = _by_class(cache.held()), torch.accelerator.memory_allocated()
        parts |= held | {"rounding of the caches": used - before - sum(held.values())}
        torch.accelerator.reset_peak_memory_stats()
        for new in ({0: [0] * chunk}, {s: [0] for s in range(sequences)}):
            transformer.step(cache.append(new), cache, "last")
            cache.reset()
        parts[ACTIVATIONS] = torch.accelerator.max_memory_allocated() - used
    return Peak({name: size for name, size in parts.items() if size}, elsewhere)


@contextmanager
def _dry_device() -> Iterator[None]:
    native = device.native()
    before = torch.accelerator.get_memory_info()[1]
    native.set_dry(True)
    native.set_capacity(MEMORY)
    try:
        yield
    finally:
        native.set_dry(False)
        native.set_capacity(before)


def _far(transformer: Transformer, place: Placement) -> dict[str, int]:
    """Give the memories' tables addresses of the host; bytes by class."""
    found: dict[str, int] = {}
    for table in (module for module in transformer.modules() if isinstance(module, EngramTable)):
        table.placement = "host"  # also of a file that is mapped: what comes to the device comes the same way
        for leaf, tensor in table.named_parameters():
            setattr(table, leaf, nn.Parameter(_addresses(tensor), requires_grad=False))
            name = f"{TABLES} ({place})"
            found[name] = found.get(name, 0) + tensor.nbytes
    return found


def _addresses(like: Tensor) -> Tensor:
    """Of the host, without memory behind them: a file's that has a length and no contents."""
    with tempfile.TemporaryFile() as file:
        file.truncate(like.nbytes)
        return (
            torch.frombuffer(mmap.mmap(file.fileno(), like.nbytes), dtype=torch.uint8).view(like.dtype).view(like.shape)
        )


def _placed(transformer: Transformer) -> dict[str, int]:
    """Put every tensor on the device that has no place yet; bytes by class."""
    classes = {id(tensor): name for name, tensor in weights(transformer)}
    made: dict[str, int] = defaultdict(int)
    for module in transformer.modules():
        for leaf, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is None or (isinstance(module, EngramTable) and module.placement == "host"):
                continue
            before = torch.accelerator.memory_allocated()
            empty = torch.empty_like(tensor, device=device.NAME)
            setattr(
                module, leaf, nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
            )
            made[classes.get(id(tensor), "others")] += torch.accelerator.memory_allocated() - before
    for module in transformer.modules():
        if isinstance(module, EngramHash) and transformer.engram_token_map is not None:
            module.assume(transformer.engram_token_map, 0)
    return dict(made)


def _by_class(held: Iterator[tuple[str, Tensor]]) -> dict[str, int]:
    found: dict[str, int] = defaultdict(int)
    for name, tensor in held:
        found[name] += tensor.nbytes
    return dict(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m deepport_sim.dry", description="What a model takes on one device, run dry."
    )
    parser.add_argument("model", help="a preset, such as v4-pro, or a checkpoint's directory")
    parser.add_argument("--dtype", help="of activations and plain weights; bfloat16 for presets")
    parser.add_argument("--format", default="plain", help="EXPERTS+DENSE+TABLES, as mxfp4+fp8")
    parser.add_argument("--context", type=int, default=8192, help="tokens of each sequence")
    parser.add_argument("--batch", type=int, default=1, help="sequences at once")
    parser.add_argument("--chunk", type=int, default=512, help="new tokens in a step of a prompt")
    parser.add_argument("--engram", choices=get_args(Placement), default="device", help="where Engram's tables lie")
    asked = parser.parse_args()
    begin = time.perf_counter()
    try:
        transformer = in_format(asked.model, asked.dtype, asked.format)
        found = dry(transformer, asked.batch, asked.context, asked.chunk, asked.engram)
    except BadInput as error:
        sys.exit(f"deepport_sim.dry: {error}")
    for name, size in (*found.elsewhere.items(), *found.parts.items(), ("at the peak", found.bytes)):
        print(f"{name:<24}{size / 1e9:>12.3f} GB")
    real = HostRuntime().memory().peak
    print(
        f"in {time.perf_counter() - begin:.1f} s and {real / 1e9:.2f} GB of memory; simulated, nothing was computed",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
