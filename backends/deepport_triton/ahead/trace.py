"""Which launches a model makes: its steps traced on tensors without data, by kernels that note what they would start; or a case.

Meta tensors have no data to read: a step that can be traced to its end never waits for the device, and can be captured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import torch

from deepport import formats, ops
from deepport.bench.quantised import Formats, quantise
from deepport.conformance.grids.captured import ENGRAM
from deepport.conformance.trial import drawn
from deepport.kernel import Kernel
from deepport.op import Operator, operators
from deepport.policy import Session
from deepport_model.config import Config
from deepport_model.loading import on_meta
from deepport_model.presets import V4_FLASH, V4_PRO
from deepport_model.transformer import Transformer, cast
from deepport_triton.launch import Launch, noted


def _short(c: Config) -> Config:
    """A model with a layer of each kind: window, CSA and HCA; experts chosen by hash, and learned."""
    ratios = (0, c.csa_ratio, max(c.compress_ratios))
    return replace(c, num_hidden_layers=len(ratios), compress_ratios=ratios, hash_layers=(True, False, False))


MODELS: Mapping[str, Config] = {
    "v4-flash": _short(V4_FLASH),
    "v4-pro": _short(V4_PRO),
    "engram": replace(_short(V4_FLASH), engram=replace(ENGRAM, layer_ids=(1, 2))),
}
"""Whose shapes are compiled, of true width; `engram`: V4-Flash with the memory of V4.1-Flash."""

DTYPES = (torch.bfloat16, torch.float16)
FORMATS = ("plain", "mxfp4+fp8+fp8", "mxfp4+int8+fp8")
"""Of experts, linear layers and memories (`deepport.bench.quantised`): none, DeepSeek-V4's, and those of chips without FP8."""

STEPS = {"prefill": (512,), "decode": (1, 1, 1)}
"""New tokens of each sequence, step by step: numbers that are 1, or that 16 divides, are compiled apart from others."""

DEPTH = 8192
"""Tokens that a cache has room for."""

Kernels = Mapping[str, Mapping[str, Sequence[Kernel]]]
"""An architecture's kernels by operator."""


@dataclass(frozen=True)
class Made:
    """A launch, as an architecture has it, and the operator that asks for it."""

    operator: str
    architecture: str
    launch: Launch


class Noting(Session):
    """Serves traced calls by kernels that note their launches, as each architecture has them.

    Attributes:
        made: what was noted.
        references: the calls that no kernel takes, by architecture and operator.
    """

    def __init__(self, kernels: Kernels) -> None:
        super().__init__()
        self._kernels = kernels
        self.made: list[Made] = []
        self.references: list[tuple[str, str]] = []

    def trace(self, operator: Operator[..., Any], arguments: tuple[Any, ...]) -> None:
        signature = operator.signature(arguments)
        for architecture, kernels in self._kernels.items():
            kernel = next((k for k in kernels.get(operator.name, ()) if k.supports(signature)), None)
            if kernel is None:
                self.references.append((architecture, operator.name))
                continue
            with noted(architecture) as launches:
                kernel.run(*operator.bind(arguments).values())
            self.made += (Made(operator.name, architecture, launch) for launch in launches)


def shaped(config: Config, dtype: torch.dtype, format: str) -> Transformer:
    """A model on meta with weights in these formats."""
    return quantise(cast(on_meta(config), dtype).to("meta").eval(), Formats.parse(format))


def apart(c: Config, dtype: torch.dtype, format: str, tokens: int) -> None:
    """What a model asks for where its experts are on several devices, and where numbers change their format."""
    meta = partial(torch.empty, device="meta")
    ids = meta(tokens, c.num_experts_per_tok, dtype=torch.int32)
    w = meta(c.n_routed_experts, c.moe_intermediate_size, c.hidden_size, dtype=dtype)
    rows, offsets, inverse = ops.moe_dispatch(meta(tokens, c.hidden_size, dtype=dtype), ids, c.n_routed_experts)
    scale, wanted = None, Formats.parse(format).experts
    if wanted != formats.PLAIN:
        data, scales = ops.quantize(w[0], wanted)
        ops.dequantize(data, scales, wanted, dtype)
        w, scale = (t.expand(len(w), *t.shape).contiguous() for t in (data, scales))
    y = ops.grouped_linear(rows, w, scale, wanted, offsets)
    ops.moe_combine(y, meta(ids.shape), inverse, ids)


def made(
    kernels: Kernels, models: Sequence[str] = tuple(MODELS), dtypes: Sequence[torch.dtype] = DTYPES
) -> Iterator[Made]:
    """The launches of these models' steps."""
    for name, dtype, format in product(models, dtypes, FORMATS):
        for of, session in steps(shaped(MODELS[name], dtype, format), kernels):
            with session, torch.inference_mode():
                apart(MODELS[name], dtype, format, sum(STEPS[of]))
            yield from session.made


def of_cases(kernels: Kernels) -> Iterator[Made]:
    """The launches of operators' own cases: small and awkward, in every type and format."""
    for name in dict.fromkeys(name for offered in kernels.values() for name in offered):
        operator = operators[name]
        for case in operator.cases:
            arguments = tuple(drawn(operator, case).values())
            for architecture, offered in kernels.items():
                kernel = next((k for k in offered[name] if k.supports(operator.signature(arguments))), None)
                if kernel is not None:
                    with noted(architecture) as launches:
                        kernel.run(*arguments)
                    yield from (Made(name, architecture, launch) for launch in launches)


def steps(
    model: Transformer, kernels: Kernels, watched: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> Iterator[tuple[str, Noting]]:
    """A prompt is read and tokens are decoded: each step's name, and what it asked for. `watched`: entered around each."""
    with torch.inference_mode():
        cache = model.cache(max(map(len, STEPS.values())), DEPTH, max(map(max, STEPS.values())))
        for of, lengths in STEPS.items():
            batch = cache.append({slot: [0] * n for slot, n in enumerate(lengths)})
            with Noting(kernels) as session, watched():
                model.step(batch, cache, "last")
            yield of, session
