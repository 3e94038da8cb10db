"""Plans: what would serve a model, from shapes alone; they agree with what a run then records."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import Deepport
from gemm import GEMMS, WIDE

import deepport
from deepport.command.plan import Plan, make_plan
from deepport.command.request import Policy
from deepport.planning.sites import sites
from deepport.record import Record, Row
from deepport_model.checkpoint import save_weights
from deepport_model.loading import shaped
from deepport_model.presets import PRESETS

Kernels = Callable[..., None]
Counts = dict[tuple[str, str, str], tuple[int, float, float]]


def counts(record: Record) -> Counts:
    return {(r.site, r.operator, r.implementation): (r.calls, r.flops, r.bytes) for r in record.rows}


def calls(record: Record, operator: str) -> int:
    return sum(r.calls for r in record.rows if r.operator == operator)


def row(plan: Plan, site: str) -> Row:
    return next(r for r in plan.prefill.rows if r.site == site)


def test_a_plan_is_what_a_run_records(checkpoint: Path) -> None:
    plan = make_plan(str(checkpoint), None, "cpu", Policy(), tokens=70)
    model = deepport.load(checkpoint, "cpu")
    with sites(model.transformer) as site, torch.inference_mode():
        cache = model.transformer.cache(1, 71, 70)
        for planned, tokens in ((plan.prefill, 70), (plan.decode, 1)):
            record = Record(site)
            with model.session(record=record):
                model.transformer.step(cache.append({0: [7] * tokens}), cache, "last")
            assert counts(planned) == counts(record)
    assert not any(module._forward_hooks for module in model.transformer.modules())


@pytest.mark.parametrize("preset", ["v4-flash", "v4-pro", "mini-engram"])
def test_presets_are_planned_without_weights(preset: str, cpu_kernels: Kernels) -> None:
    cpu_kernels(*GEMMS)
    config = PRESETS[preset]
    plan = make_plan(preset, "bfloat16", "cpu", Policy(), tokens=512)
    selecting = sum(config.overlaps(i) for i in range(config.num_hidden_layers))
    for record in (plan.prefill, plan.decode):
        assert calls(record, "sparse_attention") == calls(record, "moe_experts") == config.num_hidden_layers
        assert calls(record, "index_topk") == selecting
        assert calls(record, "engram_gate") == (len(config.engram.layer_ids) if config.engram else 0)
    projection = row(plan, "layers.3.attn.wq_a")
    assert (projection.operator, projection.implementation, projection.calls) == ("linear", "cpu/gemm", 1)
    assert projection.flops == 2 * 512 * config.hidden_size * config.q_lora_rank
    assert row(plan, "").operator in {"mhc_head", "engram_hash", "engram_gather", "rotary_angles"}
    gate = row(plan, "layers.3.ffn.gate")
    assert gate.refusals == (("cpu/gemm", WIDE),)


def test_a_plan_refuses_nothing(checkpoint: Path, cpu_kernels: Kernels) -> None:
    cpu_kernels(*GEMMS)
    plan = make_plan(str(checkpoint), None, "cpu", Policy("error"), tokens=8)
    assert "sparse_attention" in plan.prefill.references
    host = make_plan(str(checkpoint), None, "cpu", Policy("host", frozenset(("rotary",)), 1), tokens=8)
    assert {r.implementation for r in host.decode.rows if r.operator == "rotary"} == {"reference on host"}


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_shaped_is_loaded_without_data(checkpoint: Path, tmp_path: Path, dtype: str | None) -> None:
    model = deepport.load(checkpoint, "cpu").transformer
    linear = model.get_submodule("layers.0.attn.wq_a")
    data, scale = torch.ops.deepport.quantize(linear.weight.detach(), "int8:row")
    linear.weight = torch.nn.Parameter(data, requires_grad=False)
    linear.scale = torch.nn.Parameter(scale, requires_grad=False)
    linear.format = "int8:row"  # type: ignore[assignment]
    save_weights(model, model.config, tmp_path / "quantised")
    expected = deepport.load(tmp_path / "quantised", "cpu", dtype).transformer
    found = shaped(tmp_path / "quantised", dtype)
    described = [{n: (t.shape, t.dtype) for n, t in m.state_dict().items()} for m in (expected, found)]
    assert described[0] == described[1]
    assert found.get_submodule("layers.0.attn.wq_a").format == "int8:row"
    assert all(t.is_meta for t in (*found.parameters(), *found.buffers()))


def test_the_command_folds_layers_that_agree(command: Deepport, cpu_kernels: Kernels) -> None:
    cpu_kernels(*GEMMS)
    ended = command("plan", "--device", "cpu", "--model", "mini", "--dtype", "bfloat16", "--explain")
    assert (ended.code, ended.err) == (0, "")
    lines = [line.split() for line in ended.out.splitlines()]
    assert lines[0][:3] == ["mini", "on", "cpu:0"] and lines[0][3].startswith("(")  # the device, by its own name
    assert ["layers.2-6/2.attn", "sparse_attention", "reference", "1"] in [line[:4] for line in lines]
    assert ["layers.0-7.attn.wo_a", "block_linear", "cpu/gemm", "1"] in [line[:4] for line in lines]
    assert ["model", "mhc_head", "reference", "1"] in [line[:4] for line in lines]
    assert sum(line[:2] == ["plan:", "prefill"] for line in lines) == 1
    short = command("plan", "--device", "cpu", "--model", "mini", "--dtype", "bfloat16").out
    assert ["sparse_attention", "reference", "8"] in [line.split()[:3] for line in short.splitlines()]
    assert "layers." not in short


def test_json_has_operators_or_call_sites(command: Deepport, checkpoint: Path) -> None:
    arguments = ("plan", "--device", "cpu", "--model", checkpoint, "--json")
    operators, places = json.loads(command(*arguments).out), json.loads(command(*arguments, "--explain").out)
    for found in (operators, places):
        assert (found["device"], found["tokens"]) == ("cpu", 512)
        assert found["weight_bytes"] > 1e6
    assert {r["site"] for r in operators["decode"]} == {""}
    assert "layers.1.attn.indexer" in {r["site"] for r in places["decode"]}
    for step in ("prefill", "decode"):
        total = sum(r["bytes"] for r in operators[step])
        assert sum(r["bytes"] for r in places[step]) == pytest.approx(total)
        assert total > 0


def test_a_chip_that_is_not_there_is_planned_on_paper(command: Deepport) -> None:
    arguments = ("plan", "--device", "npu", "--model", "v4-flash", "--dtype", "bfloat16", "--chunk", 64, "--json")
    found = {soc: json.loads(command(*arguments, "--soc", soc).out) for soc in ("910B", "950")}
    assert [f["soc"] for f in found.values()] == ["910B", "950"]
    served = {soc: {(r["operator"], r["implementation"]) for r in f["decode"]} for soc, f in found.items()}
    assert ("sparse_attention", "npu/npu_sparse_flash_attention") in served["910B"] & served["950"]
    assert ("mhc_pre", "npu/triton") in served["910B"] and ("mhc_pre", "npu/npu_mhc_pre") in served["950"]
    (row,) = [r for r in found["910B"]["decode"] if r["operator"] == "mhc_pre"]
    assert row["refusals"][0][1].startswith("device: npu_mhc_pre is documented for A5, not for A2")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--device", "npu", "--soc", "H100"), "--soc H100: no Ascend chip is called so; there are: 910B, 910C"),
        (("--device", "cpu", "--soc", "910B"), "the cpu backend plans for the devices of this machine only"),
        (("--soc", "910B"), "--soc names a chip of a backend; name the backend too"),
    ],
)
def test_a_chip_that_nobody_knows_is_bad_input(command: Deepport, arguments: tuple[str, ...], line: str) -> None:
    ended = command("plan", *arguments)
    assert ended.code == 2 and ended.err.startswith(f"deepport: {line}")
