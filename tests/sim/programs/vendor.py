"""The host's part of npu's kernels on the simulated accelerator: torch_npu's operators are stand-ins, each one piece of work.

A stand-in computes nothing: its results are zeros (ones, for a sum of exponentials) of the shapes that the vendor's have. What is
run is what our code does around it, in which no rule may be broken.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from deepport.conformance.grids import cases
from deepport.conformance.oracle import tensors
from deepport.conformance.trial import drawn
from deepport.kernel import Kernel
from deepport.op import operators
from deepport_npu import backend
from deepport_sim import device

CHIPS = ("A2", "A5")
"""Between them they take every operator that stands for a kernel here."""

WAITS = ("index_topk",)
"""It asks the device whether the vendor's choice is certain."""


def _like(x: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    return torch.zeros(shape or x.shape, dtype=dtype or x.dtype)


def _routed(x: Tensor, ids: Tensor, active_expert_range: tuple[int, int], **options: Any) -> list[Tensor]:
    copies, experts = ids.numel(), active_expert_range[1] - active_expert_range[0]
    counts = torch.zeros(experts, dtype=torch.int64)
    return [_like(x, copies, x.shape[1]), torch.arange(copies, dtype=torch.int32), counts, torch.zeros(copies)]


def _attended(q: Tensor, *given: Any, **options: Any) -> list[Tensor]:
    _, tokens, heads, _ = q.shape
    return [_like(q), torch.zeros(1, 1, tokens, heads), torch.ones(1, 1, tokens, heads)]


def _collapsed(streams: Tensor, fn: Tensor, *given: Any, **options: Any) -> list[Tensor]:
    tokens, n, width = streams.shape
    return [_like(streams, tokens, width), torch.zeros(tokens, n), torch.zeros(tokens, n, n)]


RESULTS: dict[str, Callable[..., Tensor | list[Tensor]]] = {
    "npu_rms_norm": lambda x, gamma, eps: [_like(x), torch.zeros(*x.shape[:-1], 1)],
    "npu_rotary_mul": lambda x, *angles: _like(x),
    "npu_clipped_swiglu": lambda x, **options: _like(x, *x.shape[:-1], x.shape[-1] // 2),
    "npu_swiglu": lambda x, dim: _like(x, *x.shape[:-1], x.shape[-1] // 2),
    "npu_weight_quant_batchmatmul": lambda x, w, scale: _like(x, x.shape[0], w.shape[1]),
    "npu_sparse_flash_attention": _attended,
    "npu_lightning_indexer": lambda q, *given, sparse_count, **options: [
        _like(q, q.shape[0], 1, 1, sparse_count, dtype=torch.int32), torch.zeros(1),
    ],
    "npu_mhc_pre": _collapsed,
    "npu_mhc_sinkhorn": lambda x, **options: [_like(x)],
    "npu_mhc_post": lambda streams, *given: _like(streams),
    "npu_moe_init_routing_v2": _routed,
    "npu_moe_token_unpermute": lambda rows, places, weights: _like(rows, weights.shape[0], rows.shape[1]),
    "npu_grouped_matmul": lambda x, w, **options: [_like(x[0], x[0].shape[0], w[0].shape[2])],
}  # fmt: skip


def _stand_in(name: str) -> Callable[..., Any]:
    def run(*given: Any, **options: Any) -> Any:
        work = device.native().Work(
            f"npu::{name}", [(t, "an argument", False) for t in tensors((given, options))], True
        )
        found = tree_map_only(Tensor, work.adopt, RESULTS[name](*given, **options))
        work.done()
        return found

    return run


def install() -> None:
    module = ModuleType("torch_npu")
    for name in RESULTS:
        setattr(module, name, _stand_in(name))
    sys.modules["torch_npu"] = module


def wrapped() -> None:
    """Each kernel that a chip of ours takes calls with, in the first call that it takes."""
    install()
    ran = set()
    for chip in CHIPS:
        _, kernels = backend.on_paper(chip)
        for kernel in kernels:
            if kernel.name != "triton" and _ran(kernel):
                ran.add((kernel.operator, kernel.name))
    assert len(ran) >= 14, f"only {sorted(ran)} took a call"


def _ran(kernel: Kernel) -> bool:
    operator = operators[kernel.operator]
    for case in cases(operator, "inference"):
        if case.raises or case.variant:
            continue
        values = tuple(drawn(operator, case).values())
        if kernel.supports(operator.signature(values)):
            waits = device.under(implicit_sync="allow") if kernel.operator in WAITS else nullcontext()
            with waits, device.under(host_copy="error"):
                kernel.run(*tree_map_only(Tensor, lambda t: t.to(device.NAME), values))
            return True
    return False
