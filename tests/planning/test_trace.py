"""Steps on meta: what calls cost, against sums by hand and against a run that records."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from deepport.kernel import Kernel, no
from deepport.planning import trace
from deepport.planning.estimate import Load, Planner
from deepport.planning.kinds import Kinds, kinds
from deepport.planning.sizes import KEPT
from deepport.planning.trace import Call, Trace
from deepport.policy import Session
from deepport.record import Record
from deepport_model.config import Config
from deepport_model.presets import MINI, PRESETS, TINY
from planning.models import WITH_ENGRAM, paper, real


def whole(config: Config) -> Kinds:
    """Every layer, though they are alike."""
    model = paper(config)
    return Kinds(model, tuple(range(config.num_hidden_layers)))


def at(found: Trace, site: str, operator: str) -> Call:
    (call,) = (c for c in found.calls if (c.site, c.operator) == (site, operator))
    return call


def test_calls_by_hand() -> None:
    """`tiny`: width 64, 4 heads of 32, window 128, 8 experts of 32, two of them a token; layer 3 compresses by 128."""
    found = trace.decode(kinds(paper(TINY)), 3, 1024)
    query = at(found, "layers.0.attn.wq_a", "linear")
    assert query == Call("layers.0.attn.wq_a", "linear", 2 * 3 * 64 * 32, query.bytes, 2 * 64 * 32, "bfloat16")
    assert query.bytes == 2 * (64 * 32 + 3 * 64 + 3 * 32)
    attention = at(found, "layers.3.attn", "sparse_attention")
    assert attention.flops == 4 * 3 * 4 * 32 * (128 + 1024 // 128)
    rows = 3 * (128 + 8) * 32 * 2  # each sequence's window and entries, of 32 numbers
    assert attention.state == pytest.approx(rows, abs=200)  # what is small is not worth telling apart
    selected = at(found, "layers.2.attn", "sparse_attention")
    assert selected.flops == 4 * 3 * 4 * 32 * (128 + 16)  # the indexer keeps 16
    scores = at(found, "layers.2.attn.indexer", "index_topk")
    assert scores.flops == 2 * 3 * 4 * 32 * (1024 // 4)
    assert scores.state == pytest.approx(3 * 256 * 32 * 2, abs=100)


def test_a_token_touches_its_own_row_of_a_compressors_state() -> None:
    """Rows of 2 x 64 numbers in float32, each written and read once; and the bias of four places."""
    found = trace.decode(kinds(paper(TINY)), 3, 1024)
    assert at(found, "layers.2.attn.compressor", "compress_kv_").state == pytest.approx(
        3 * 2 * 512 + 4 * 64 * 4, abs=300
    )


def test_experts_are_those_that_tokens_are_expected_to_choose() -> None:
    model = kinds(paper(TINY))
    experts = 3 * 64 * 32 * 2  # bytes of one
    for tokens, expected in ((1, 2.0), (3, 8 * (1 - 0.75**3)), (64, 8 * (1 - 0.75**64))):
        call = at(trace.decode(model, tokens, 256), "layers.0.ffn.experts", "moe_experts")
        assert call.state == pytest.approx(expected * experts, rel=1e-3)


def test_depth_is_exact_and_no_page_is_rounded_up() -> None:
    model = kinds(paper(TINY))
    flops = [at(trace.decode(model, 1, d), "layers.3.attn", "sparse_attention").flops for d in (128, 256, 1280)]
    assert [f // (4 * 4 * 32) - 128 for f in flops] == [1, 2, 10]


@pytest.mark.parametrize("name", ["tiny", "tiny-engram", "mini", "v4-flash"])
def test_one_layer_of_each_kind_tells_all(name: str) -> None:
    config = WITH_ENGRAM if name == "tiny-engram" else PRESETS[name]
    few, all_of_them = kinds(paper(config)), whole(config)
    assert len(few.model.layers) < len(all_of_them.model.layers)
    for step, count, depth in ((trace.decode, 2, 4096), (trace.prefill, 64, 2048)):
        found, expected = step(few, count, depth), step(all_of_them, count, depth)
        assert Counter(found.calls) == Counter(expected.calls)
        assert [c.site for c in found.calls] == [c.site for c in expected.calls]
        assert found.peak == expected.peak


def test_what_kernels_keep_is_counted_once_a_buffer() -> None:
    """The most of all calls; by the kernel that would serve, the first that does not refuse."""

    def run(*_: object) -> None: ...

    serving = {
        "linear": [
            Kernel(
                "linear", "refuses", run, lambda _: no("shape", "none is taken"), keeps=lambda _: {"panels": 1 << 40}
            ),
            Kernel("linear", "takes", run, keeps=lambda signature: {"panels": signature["x"].shape[0] * 10}),
            Kernel("linear", "is not asked", run, keeps=lambda _: {"panels": 1 << 40}),
        ],
        "rms_norm": [Kernel("rms_norm", "takes", run, keeps=lambda _: {"panels": 7, "rows": 5})],
    }
    assert trace.decode(kinds(paper(TINY)), 3, 64, serving).kept == {"panels": 30, "rows": 5}
    assert trace.decode(kinds(paper(TINY)), 3, 64).kept == {}
    parts = {p.name: p for p in Planner(paper(TINY), serving).sizes(Load(64, 3, 16, "device")).parts}
    assert parts[KEPT].bytes == 165 and not parts[KEPT].divided  # 16 tokens of a prompt


def test_layers_of_different_formats_are_of_different_kinds() -> None:
    model = paper(TINY)
    alike = len(kinds(model).model.layers)
    linear = model.get_submodule("layers.6.attn.wo_b")
    linear.weight = torch.nn.Parameter(model.get_parameter("layers.6.attn.wo_b.weight").float())
    assert len(kinds(model).model.layers) == alike + 1


def test_a_step_is_the_one_that_a_run_records() -> None:
    """The same operators as often, and as much arithmetic, where every sequence is full: 128 tokens, then one more."""
    config = replace(TINY, sliding_window=128)
    model, record = real(config), Record()
    with torch.inference_mode():
        cache = model.cache(1, 1024, 1024)
        model.step(cache.append({0: [1] * 1023}), cache, "last")
        with Session(record=record):
            model.step(cache.append({0: [1]}), cache, "last")
    planned = Counter(c.operator for c in trace.decode(kinds(paper(config)), 1, 1024).calls)
    ran = {r.operator: r.calls for r in record.totals()}
    assert {name: ran[name] for name in planned} == planned


@pytest.mark.parametrize("context", [512, 2048, 40_000])
def test_a_prompt_costs_no_less_than_is_said(context: int) -> None:
    """Against the mean over its tokens, each with as much before it as there is."""
    model = kinds(paper(MINI))
    said = trace.prefill(model, 512, context).calls
    depths = [round(context * (2 * i + 1) / 64) for i in range(32)]
    steps = [trace._step(model, 1, depth, 512).calls for depth in depths]
    for index, call in enumerate(said):
        same = [step[index] for step in steps]
        assert {(c.site, c.operator) for c in same} == {(call.site, call.operator)}
        assert (
            call.flops <= sum(c.flops for c in same) / 32 * 1.02
        )  # the mean itself is off by the last part of its sum
        assert call.state <= sum(c.state for c in same) / 32 * 1.02 + 64
    total = sum(sum(c.flops for c in step) for step in steps) / 32
    assert 0.9 * total <= sum(c.flops for c in said) <= total * 1.001
