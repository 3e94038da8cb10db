"""Dry runs: the model's own code at any size, on addresses without memory behind them.

`python -m deepport_sim.dry v4-pro --format mxfp4+fp8 --context 131072` says in seconds what a device of 15 TB would hold, by
class and at the peak: of weights and caches every byte that is allocated, and of a step every tensor that is made. What an
operator needs for itself while it computes is its kernel's affair, and not counted.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deepport import backend
from deepport.errors import BadInput
from deepport.op import operators
from deepport.paper import OnPaper
from deepport.planning.plan import in_format
from deepport.planning.sizes import ACTIVATIONS, weights
from deepport.policy import Session
from deepport.runtime import HostRuntime
from deepport_model.engram import EngramHash
from deepport_model.transformer import Transformer
from deepport_sim import device
from deepport_sim.kernels import shapes

MEMORY = 15 << 40
"""Bytes of the device: its addresses that have no memory."""


@dataclass(frozen=True)
class Peak:
    """Bytes by class, in the order in which they are allocated; the activations are what is beyond the rest at the peak."""

    parts: dict[str, int]

    @property
    def bytes(self) -> int:
        return sum(self.parts.values())


class _Shapes(OnPaper):
    """Every operator, by its shape rule alone."""

    def __init__(self) -> None:
        self.name, self.device_type = "sim", device.NAME
        self.basis = "shapes only"
        forward = [operator for name, operator in operators.items() if not name.endswith("_backward")]
        self.kernels = backend.accepted("sim", [shapes(operator) for operator in forward])


def dry(transformer: Transformer, sequences: int, context: int, chunk: int) -> Peak:
    """What a model, given on meta, takes on one device: its weights, its sequences' memory for `context` tokens each, and the
    larger of two steps, a prompt's of `chunk` new tokens and a decoding one of every sequence.

    The transformer is on the device afterwards, without data. Raises BadInput for a context that the model has not got.
    """
    backend.start("sim")
    chunk = min(chunk, context)
    gc.collect()  # models are cycles: one that is given up later would be counted as less of this one
    with _dry_device(), torch.inference_mode(), Session(backend=_Shapes()):
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
    return Peak({name: size for name, size in parts.items() if size})


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


def _placed(transformer: Transformer) -> dict[str, int]:
    """Put every tensor on the device; bytes by class."""
    classes = {id(tensor): name for name, tensor in weights(transformer)}
    made: dict[str, int] = defaultdict(int)
    for module in transformer.modules():
        for leaf, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is None:
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
    asked = parser.parse_args()
    begin = time.perf_counter()
    try:
        found = dry(in_format(asked.model, asked.dtype, asked.format), asked.batch, asked.context, asked.chunk)
    except BadInput as error:
        sys.exit(f"deepport_sim.dry: {error}")
    for name, size in (*found.parts.items(), ("at the peak", found.bytes)):
        print(f"{name:<24}{size / 1e9:>12.3f} GB")
    real = HostRuntime().memory().peak
    print(
        f"in {time.perf_counter() - begin:.1f} s and {real / 1e9:.2f} GB of memory; simulated, nothing was computed",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
