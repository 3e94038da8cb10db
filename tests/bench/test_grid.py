"""What is timed is what models call, costs what it says, and is right."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Generator, Tensor

from deepport import formats
from deepport.bench import grid
from deepport.bench.grid import MODELS, Work
from deepport.bench.shapes import weight
from deepport.command.plan import make_plan
from deepport.command.request import Policy
from deepport.op import operators
from deepport.policy import Session

WORKS = grid.works(torch.bfloat16)
BRIEF = [w for w in WORKS if w.brief]


def name(work: Work) -> str:
    return f"{work.operator}-{work.model}-{work.tokens}-{work.label}-{work.format}".replace(" ", "_")


def call(work: Work) -> list[object]:
    given = work.build(Generator().manual_seed(0))
    operator = operators[work.operator]
    assert not given.keys() - set(operator.parameters)
    return [given.get(n, operator.defaults.get(n)) for n in operator.parameters]


def test_every_operator_of_a_step_is_timed() -> None:
    plan = make_plan("mini-engram", "bfloat16", "cpu", Policy(), 512)
    called = {r.operator for r in (*plan.prefill.totals(), *plan.decode.totals())}
    assert called - {w.operator for w in WORKS} == set()
    assert called - {w.operator for w in BRIEF} == set()
    assert {"quantize", "dequantize"} < {w.operator for w in WORKS}


def test_shapes_are_of_all_models_in_both_phases() -> None:
    counts = Counter((w.operator, w.model) for w in WORKS)
    assert {m for _, m in counts} == set(MODELS)
    for operator in ("linear", "moe_experts", "sparse_attention", "mhc_pre"):
        for model in ("mini", "v4-flash"):
            tokens = {w.tokens for w in WORKS if (w.operator, w.model) == (operator, model)}
            assert 1 in tokens
            assert max(tokens) >= 128
    assert len({name(w) for w in WORKS}) == len(WORKS), "each has a name of its own"


def judged(work: Work) -> bool:
    """Whether its reference is done in a moment."""
    return work.operator != "engram_gather" and (work.tokens <= 128 or work.operator.endswith("_backward"))


@pytest.mark.parametrize("work", [w for w in BRIEF if judged(w)], ids=name)
def test_what_serves_is_right_at_these_sizes(work: Work) -> None:
    """As its format allows; the conformance suite has the fine gates."""
    arguments = call(work)
    # What lies behind a compressor's last token is left open.
    mutated = operators[work.operator].mutates if work.operator != "compress_kv_" else ()
    with torch.no_grad(), Session():
        copied = [a.clone() if isinstance(a, Tensor) else a for a in arguments]
        found, expected = operators[work.operator](*arguments), operators[work.operator].reference(*copied)
    results = [*_tensors(found), *(arguments[operators[work.operator].parameters.index(n)] for n in mutated)]
    truths = [*_tensors(expected), *(copied[operators[work.operator].parameters.index(n)] for n in mutated)]
    assert len(results) == len(truths) > 0
    for a, b in zip(results, truths, strict=True):
        assert isinstance(a, Tensor)
        assert isinstance(b, Tensor)
        assert _far(a, b) < 2e-2, name(work)


def _tensors(value: object) -> list[Tensor]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return [v for v in values if isinstance(v, Tensor)]


def _far(a: Tensor, b: Tensor) -> float:
    """Of finite numbers, `|a - b| / |b|`; of ids, the share that differs: near-ties of scores may fall either way."""
    assert a.shape == b.shape
    if not a.is_floating_point() or a.element_size() == 1:
        return float((a.view(torch.uint8) != b.view(torch.uint8)).float().mean()) if a.numel() else 0.0
    x, y = a.double(), b.double()
    assert torch.equal(x.isinf(), y.isinf())
    x, y = x.masked_fill(x.isinf(), 0), y.masked_fill(y.isinf(), 0)
    return float((x - y).norm() / y.norm().clamp(min=1e-30))


def test_costs_are_exact_where_they_depend_on_data() -> None:
    """Declared costs are upper bounds: of experts that are used, of entries that are there. These calls reach them."""
    for work in WORKS:
        if work.model != "mini" or work.tokens not in (1, 128):
            continue
        if work.operator == "moe_experts":
            ids = work.build(Generator().manual_seed(0))["ids"]
            assert len(ids.unique()) == min(ids.numel(), 64)
            assert all(len(row.unique()) == len(row) for row in ids)
        if work.operator == "sparse_attention":
            given = work.build(Generator().manual_seed(0))
            ready = (given["positions"] + 1) // max(given["ratio"], 1)
            if given["indices"] is not None:
                assert int((given["indices"] >= 0).sum(-1).min()) == given["indices"].shape[1]
                assert bool((given["indices"] < ready[:, None]).all())
            elif given["ratio"]:
                assert given["compressed_table"].shape[1] * given["compressed_pages"].shape[1] == int(ready.max())
            assert len(given["q"]) == work.tokens


@pytest.mark.parametrize("format", ["plain", "mxfp4", "fp8_e4m3:128x128", "int8:row"])
def test_weights_are_of_their_format(format: str) -> None:
    data, scale = weight(Generator().manual_seed(0), (3, 640, 128), torch.bfloat16, format)
    formats.check(data, scale, format)
    values = formats.decode(data, scale, format, torch.float32)
    assert values.shape == (3, 640, 128)
    assert values.isfinite().all()
    assert float(values.std()) == pytest.approx(128**-0.5, rel=0.1)


def test_other_experts_are_other_weights() -> None:
    work = next(w for w in WORKS if w.operator == "moe_experts" and w.model == "mini" and w.tokens == 1)
    assert work.vary is not None
    given = work.build(Generator().manual_seed(0))
    seen = [frozenset(work.vary(given, i)["ids"].flatten().tolist()) for i in range(10)]
    assert len(frozenset().union(*seen)) == 60
