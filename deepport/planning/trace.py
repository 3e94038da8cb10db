"""One step of a model on meta: what each call asks of a device, and the most memory that its results take at once."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import deepport.ops  # noqa: F401  (declares the operators)
from deepport import formats
from deepport.kernel import Kernel, Signature, signature_of
from deepport.op import operators
from deepport.planning.kinds import Kinds
from deepport.planning.sites import sites
from deepport.spec import nbytes
from deepport_model.cache import Batch, Cache
from deepport_model.transformer import Transformer

GATHER = "engram_gather"
_CARRYING = {"compress_kv_": "kv", "engram_conv_": "gated"}
"""Operators that carry rows from step to step, and the argument that has a row for each new token."""

_ELEMENTS = {"fp8_e4m3": "fp8", "fp8_e4m3fnuz": "fp8", "mxfp4": "fp4", "int8": "int8"}


@dataclass(frozen=True)
class Call:
    """What one call of an operator costs.

    Attributes:
        flops, bytes: by the operator's own cost.
        state: of the bytes those of weights, caches and tables, which are too many to stay on a chip; the rest may.
        element: what its weights consist of, or its input where it has none: `fp8`, `bfloat16`.
        row: bytes of a row, where rows are gathered at random; else 0.
    """

    site: str
    operator: str
    flops: float
    bytes: float
    state: float
    element: str
    row: float = 0.0


@dataclass(frozen=True)
class Trace:
    """The calls of a step in order.

    Attributes:
        peak: bytes of what it makes, its result among them, while most of it is alive.
        kept: bytes that kernels keep for themselves, by buffer.
    """

    calls: tuple[Call, ...]
    peak: int
    kept: dict[str, int]


Kernels = Mapping[str, Sequence[Kernel]]
"""By operator, in the order in which they are asked; what those need for themselves is planned."""

NOBODY: Kernels = MappingProxyType({})


def decode(model: Kinds, sequences: int, depth: int, kernels: Kernels = NOBODY) -> Trace:
    """Every sequence's `depth`-th token."""
    return _step(model, sequences, depth, sequences, kernels)


def prefill(model: Kinds, tokens: int, context: int, kernels: Kernels = NOBODY) -> Trace:
    """A step of a prompt of `context` tokens, `tokens` of them new: at most what steps cost on average.

    What a token sees grows with its place, and so does a call's cost, which bends one way only. If it bends up, the mean over all
    places is at least that of the middle; if it bends down, at least half the sum of the ends: the lesser of both is a bound.
    """
    depths = (1, max(context // 2, 1), context)
    first, middle, last = (_step(model, 1, depth, tokens, kernels) for depth in depths)
    calls = (
        replace(m, flops=min(m.flops, (f.flops + e.flops) / 2), state=min(m.state, (f.state + e.state) / 2))
        for f, m, e in zip(first.calls, middle.calls, last.calls, strict=True)
    )
    return Trace(tuple(calls), last.peak, last.kept)


def _step(model: Kinds, sequences: int, depth: int, tokens: int, kernels: Kernels = NOBODY) -> Trace:
    transformer = model.model
    config, meta = transformer.config, torch.device("meta")
    cache = Cache(config, sequences, depth, 1, transformer.dtype, meta, page=1)
    ids, places = (torch.empty(tokens, dtype=torch.int64, device=meta) for _ in range(2))
    ends, slots = (torch.empty(n, dtype=torch.int32, device=meta) for n in (sequences + 1, sequences))
    earlier = config.engram.max_ngram_size - 1 if config.engram else 0
    batch = Batch(ids, places, ends, slots, torch.empty(sequences, earlier, dtype=torch.int64, device=meta))
    with torch.inference_mode(), sites(transformer) as site, _Tracing(site, transformer, cache, kernels) as found:
        transformer.step(batch, cache, "last")
    calls = model.spread((call.site, call) for call in found.calls)
    return Trace(tuple(replace(call, site=site) for site, call in calls), found.peak, found.kept)


class _Tracing(TorchDispatchMode):
    """Notes calls of our operators and the storage that any operator makes."""

    def __init__(
        self, site: Callable[[], str], transformer: Transformer, cache: Cache, kernels: Kernels = NOBODY
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []
        self.kept: dict[str, int] = {}
        self._kernels = kernels
        self.peak = self._now = 0
        self._site = site
        self._live: dict[int, int] = {}
        kept = (*transformer.parameters(), *transformer.buffers(), *(t for _, t in cache.held()))
        self._state = {t.untyped_storage()._cdata for t in kept}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        made = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        if function.namespace == "deepport":
            self.calls.append(self._call(function._opname, args, made))
        for tensor in made:
            self._hold(tensor.untyped_storage())
        return result

    def _call(self, name: str, args: tuple[Any, ...], made: list[Tensor]) -> Call:
        operator = operators[name]
        given = operator.bind(args)
        if candidates := self._kernels.get(name):
            self._keep(candidates, signature_of(name, given))
        cost = operator.cost(*given.values())
        # No cost counts page tables, which are made anew for each step.
        fleeting = [
            t
            for argument, t in given.items()
            if isinstance(t, Tensor) and not argument.endswith("table") and not self._is_state(t)
        ]
        state = max(cost.bytes - nbytes(*fleeting, *made), 0.0)
        if name == "moe_experts":
            state *= _drawn(given["ids"].numel(), given["ids"].shape[1], given["w13"].shape[0])
        if name in _CARRYING:
            state = max(state - _spared(given[_CARRYING[name]], given["state"], given["slots"]), 0.0)
        row = state / max(given["ids"].numel(), 1) if name == GATHER else 0.0
        return Call(self._site(), name, cost.flops, cost.bytes, state, _element(given), row)

    def _keep(self, candidates: Sequence[Kernel], signature: Signature) -> None:
        """By the kernel that serves such a call."""
        serving = next((k for k in candidates if k.supports(signature)), None)
        for buffer, size in serving.keeps(signature).items() if serving is not None else ():
            self.kept[buffer] = max(self.kept.get(buffer, 0), size)

    def _is_state(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._state

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._live or key in self._state:
            return
        self._live[key] = storage.nbytes()
        self._now += storage.nbytes()
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self._now -= self._live.pop(key)


def _drawn(copies: int, k: int, experts: int) -> float:
    """Experts that tokens are expected to choose, each k at random, over the most that they can, which a cost counts."""
    expected = experts * (1 - (1 - k / experts) ** (copies / k))
    return expected / min(copies, experts) if copies else 1.0


def _spared(tokens: Tensor, state: Tensor, slots: Tensor) -> float:
    """Bytes of carried state that a cost counts, as of the worst of steps, and that steps on average leave alone.

    It counts all of a sequence's rows, read and written; but a token writes one, and each is read once at least.
    """
    untouched = slots.shape[0] * state.shape[1] - tokens.shape[0]
    return 2.0 * max(untouched, 0) * state.shape[2] * state.element_size()


def _element(given: Mapping[str, Any]) -> str:
    format = given.get("format", formats.PLAIN)
    if format != formats.PLAIN:
        return _ELEMENTS[formats.parse(format).element]
    found = next((t.dtype for t in given.values() if isinstance(t, Tensor) and t.is_floating_point()), torch.float32)
    return str(found).removeprefix("torch.")
