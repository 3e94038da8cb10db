"""Whole models: what a step costs, who serves it, and prompts and tokens in turns with a peer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import tiny
from deepport import ops
from deepport.bench.limits import Limits
from deepport.bench.model import Bench, Ours, decode, drawn, exact, prefill
from deepport.bench.peak import MEMORY
from deepport.bench.peers import logits
from deepport.bench.quantised import Formats, quantise
from deepport.bench.step import Step
from deepport.bench.timing import Stopwatch
from deepport.policy import Session
from deepport.runtime import HostRuntime

CAPACITY = 300


class Slower:
    """A peer's other end: it notes what it is fed, and takes three seconds."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.resets = 0

    def reset(self) -> None:
        self.tokens = []
        self.resets += 1

    def feed(self, ids: Sequence[int]) -> float:
        self.tokens += ids
        return 3.0

    def logits(self) -> Tensor:
        return torch.zeros(1)


@pytest.fixture
def bench(limits: Limits) -> Bench:
    model = tiny.model()
    ours = Ours(model.transformer, CAPACITY, 64, Stopwatch(HostRuntime()))
    peers: dict[str, Any] = {"slower": Slower()}
    return Bench("tiny", model, "plain", 64, limits, ours, peers)


def never() -> bool:
    return False


def test_prefill(bench: Bench) -> None:
    figure = prefill(bench, 100, 3, never).figure
    assert figure is not None
    assert (figure.kind, figure.tokens, figure.depth, figure.seconds.n) == ("prefill", 100, 0, 3)
    assert figure.tokens_per_second == 100 / figure.seconds.median
    assert figure.against[0].seconds.median == 3.0
    assert figure.against[0].ratio.median == pytest.approx(3.0 / figure.seconds.median)
    assert {"linear", "sparse_attention", "index_topk"} <= {s.operator for s in figure.served}
    assert figure.label == "100 tokens in steps of 64"
    peer: Any = bench.peers["slower"]
    assert (len(peer.tokens), peer.resets) == (100, 3), "from nothing each time"
    assert bench.seconds_to_read(200) == pytest.approx(200 / bench.rates["slower"] + 200 / bench.rates["deepport"])


def test_decode(bench: Bench) -> None:
    figure = decode(bench, 140, 5, never).figure
    assert figure is not None
    assert (figure.kind, figure.tokens, figure.depth, figure.seconds.n) == ("decode", 1, 140, 5)
    assert (figure.limit, figure.memory) == (MEMORY, "cold")
    peer: Any = bench.peers["slower"]
    ids = bench.ids(140 + 5 + 3)
    assert peer.tokens == ids, "both compute the same tokens"
    assert bench.ours._cache.lengths == (148,)
    cost = sum(t.numel() * t.element_size() for t in bench.model.transformer.parameters())
    assert 0.2 * cost < figure.bytes < 1.5 * cost


def test_a_step_costs_what_the_model_itself_calls() -> None:
    """An operator that is composed of others counts once."""
    from deepport import composed
    from deepport.kernel import Kernel

    given = (
        torch.ones(2, 8),
        torch.zeros(2, 1, dtype=torch.int32),
        torch.ones(2, 1),
        torch.ones(3, 8, 8),
        torch.ones(3, 8, 4),
    )
    expected = ops.moe_experts.cost(*given, None)
    from deepport import backend

    kernels = backend.start("cpu").kernels
    before = kernels["moe_experts"]
    try:
        kernels["moe_experts"] = [Kernel("moe_experts", "composed", composed.moe_experts)]
        step = Step()
        with torch.inference_mode(), Session(record=step):
            ops.moe_experts(*given, None)
    finally:
        kernels["moe_experts"] = before
    assert (step.flops, step.bytes) == (expected.flops, expected.bytes)
    assert {s.operator for s in step.served()} > {"moe_experts", "grouped_linear"}


def test_exact_is_float32_of_the_same_weights() -> None:
    model = quantise(tiny.transformer(torch.bfloat16), Formats.parse("mxfp4"))
    wide = exact(model)
    assert {p.dtype for p in wide.parameters()} == {torch.float32}
    assert model.embed.weight.dtype == torch.bfloat16
    ids = drawn(tiny.CONFIG.vocab_size, logits.PROMPT + logits.STEPS)
    clock = Stopwatch(HostRuntime())
    with torch.inference_mode():
        a, b = (logits.sample(Ours(m, CAPACITY, 512, clock), ids) for m in (model, wide))
    assert 0 < logits.difference(a, b) < 0.2


def test_tokens_are_the_same_for_everybody() -> None:
    assert drawn(50, 20) == drawn(50, 30)[:20]
    assert drawn(50, 20) != drawn(50, 20, seed=1)
    assert max(drawn(5, 100)) == 4
