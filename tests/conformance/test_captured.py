"""The captured grids have the feature dimensions with which the published models call the operators."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import deepport.ops  # noqa: F401
from deepport.conformance import grids
from deepport.conformance.grids.captured import MODELS
from deepport.op import Operator, operators
from deepport.server import current_server
from deepport.spec import Case
from deepport_model.config import Config
from deepport_model.loading import on_meta
from deepport_model.transformer import cast

pytestmark = pytest.mark.slow

Features = dict[str, Any]
Call = tuple[str, tuple[tuple[str, Any], ...]]


def shape(arguments: Features, **dims: tuple[str, int]) -> Features:
    return {n: arguments[tensor].shape[dim] for n, (tensor, dim) in dims.items()}


def scalars(arguments: Features, *names: str) -> Features:
    return {n: arguments[n] for n in names}


def compressed(arguments: Features) -> Features:
    """By which kind of layer attention is called; how many entries are selected where they are."""
    indices = arguments["indices"]
    scope = "window" if arguments["compressed_pages"] is None else "all" if indices is None else indices.shape[1]
    return {"scope": scope}


FEATURES: dict[str, Callable[[Features], Features]] = {
    "linear": lambda a: shape(a, inputs=("x", -1), outputs=("w", 0)),
    "block_linear": lambda a: shape(a, groups=("w", 0), outputs=("w", 1), inputs=("x", -1)),
    "rms_norm": lambda a: {"shape": tuple(a["x"].shape[1:]), "weighted": a["weight"] is not None, "eps": a["eps"]},
    "rotary": lambda a: {"shape": tuple(a["x"].shape[1:]), "pairs": a["cos"].shape[-1], "inverse": a["inverse"]},
    "rotary_angles": lambda a: shape(a, pairs=("frequencies", 0)) | scalars(a, "ratio"),
    "write_pages_": lambda a: shape(a, page=("pages", 1), width=("pages", 2)),
    "compress_kv_": lambda a: shape(a, channels=("kv", 1), state=("state", 1)) | scalars(a, "ratio", "overlap"),
    "index_topk": lambda a: shape(a, heads=("q", 1), size=("q", 2), page=("pages", 1)) | scalars(a, "ratio", "k"),
    "sparse_attention": lambda a: (
        shape(a, heads=("q", 1), size=("q", 2), page=("window_pages", 1), sinks=("sink", 0))
        | scalars(a, "scale", "window_size", "ratio")
        | compressed(a)
    ),
    "route": lambda a: (
        {"experts": a["logits"].shape[1], "hashed": a["table"] is not None, "biased": a["bias"] is not None}
        | scalars(a, "k", "scoring", "scale")
        | {"vocabulary": 0 if a["table"] is None else a["table"].shape[0]}
    ),
    "moe_experts": lambda a: (
        shape(a, experts=("w13", 0), width=("x", 1), k=("ids", 1))
        | {"inside": a["w13"].shape[1] // 2}
        | scalars(a, "limit")
    ),
    "swiglu": lambda a: shape(a, width=("gate", 1)) | scalars(a, "limit"),
    "mhc_pre": lambda a: (
        shape(a, streams=("streams", 1), width=("streams", 2)) | scalars(a, "iters", "eps", "norm_eps")
    ),
    "mhc_post": lambda a: shape(a, streams=("streams", 1), width=("streams", 2)),
    "mhc_head": lambda a: shape(a, streams=("streams", 1), width=("streams", 2)) | scalars(a, "eps", "norm_eps"),
    "engram_hash": lambda a: shape(a, layers=("moduli", 0), orders=("moduli", 1), heads=("moduli", 2)),
    "engram_gather": lambda a: shape(a, rows=("rows", 0), width=("rows", 1), heads=("ids", 1)),
    "engram_gate": lambda a: (
        shape(a, streams=("hidden", 1), width=("hidden", 2), value=("value", 1)) | scalars(a, "eps", "clamp", "zero")
    ),
    "engram_conv_": lambda a: (
        shape(a, streams=("gated", 1), width=("gated", 2), kernel=("w_conv", 1), state=("state", 1))
        | scalars(a, "dilation", "eps")
    ),
}


class Capture:
    """Notes what the model calls, on meta."""

    def __init__(self) -> None:
        self.calls: set[Call] = set()

    def serve(self, operator: Operator[..., Any], arguments: tuple[Any, ...]) -> Any:
        raise AssertionError(f"{operator.name} was called with data")

    def trace(self, operator: Operator[..., Any], arguments: tuple[Any, ...]) -> None:
        found = FEATURES[operator.name](operator.bind(arguments))
        self.calls.add((operator.name, tuple(found.items())))


def called(config: Config) -> set[Call]:
    """Every distinct call of a prefill and of a step after it."""
    # A table of 384 million rows needs no more memory on meta than a small one.
    transformer = cast(on_meta(config), torch.bfloat16).to("meta").eval()
    capture = Capture()
    token = current_server.set(capture)
    try:
        with torch.inference_mode():
            cache = transformer.cache(1, 41, 40)
            for count in (40, 1):
                transformer.step(cache.append({0: [0] * count}), cache, "last")
    finally:
        current_server.reset(token)
    return capture.calls


def covers(drawn: Features, note: str, real: Features) -> bool:
    """The case has these features, or its note says `kept of true` where it has fewer."""
    return all(
        drawn[n] == true or (isinstance(true, int) and re.search(rf"\b{drawn[n]} of ([\d and]*\b)?{true}\b", note))
        for n, true in real.items()
    )


@dataclass(frozen=True)
class Drawn:
    """What a test needs of a captured case."""

    operator: str
    case: Case
    features: Features
    nbytes: int


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> tuple[str, set[Call], list[Drawn]]:
    """A grid, what its model calls, and its cases."""
    grid = request.param
    cases = [(o, c) for o in operators.values() for c in grids.cases(o, "inference") if c.grid == grid]
    return grid, called(MODELS[grid]), [draw(operator, case) for operator, case in cases]


def draw(operator: Operator[..., Any], case: Case) -> Drawn:
    arguments = operator.defaults | case.arguments()
    features = FEATURES[operator.name](arguments) if operator.name in FEATURES else {}
    return Drawn(operator.name, case, features, sum(t.nbytes for t in arguments.values() if isinstance(t, Tensor)))


def test_what_a_model_calls_is_in_its_grid(model: tuple[str, set[Call], list[Drawn]]) -> None:
    grid, calls, cases = model
    assert {name for name, _ in calls} == {n for n in FEATURES if grid == "engram" or not n.startswith("engram")}
    for name, real in sorted(calls, key=repr):
        if name.startswith("engram") == (grid == "engram"):
            found = (covers(d.features, d.case.note, dict(real)) for d in cases if d.operator == name)
            assert any(found), f"{grid}: no {name} with {dict(real)}"


def test_what_is_in_a_grid_is_called_by_its_model(model: tuple[str, set[Call], list[Drawn]]) -> None:
    _, calls, cases = model
    for drawn in cases:
        if drawn.operator in FEATURES:
            found = (covers(drawn.features, drawn.case.note, dict(real)) for n, real in calls if n == drawn.operator)
            assert any(found), f"{drawn.operator}: {drawn.case.label}"


def test_captured_arguments_are_small(model: tuple[str, set[Call], list[Drawn]]) -> None:
    assert [f"{d.operator}: {d.case.label}: {d.nbytes >> 20} MiB" for d in model[2] if d.nbytes > 150 << 20] == []


def test_only_what_is_cut_has_a_note() -> None:
    for operator in operators.values():
        for case in grids.cases(operator, "inference"):
            assert not case.note or case.grid in MODELS
            assert all(re.match(r"\d+ of \d+( and \d+)* \w+", part) for part in case.note.split("; ") if part)
