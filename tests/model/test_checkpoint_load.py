"""Loading: every naming and number format bit for bit, and one clear line for everything that does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from deepport import formats
from deepport.errors import BadInput
from deepport_model.checkpoint import load_weights, save_weights, write_config
from deepport_model.checkpoint.blocks import Sample, Span, infer_format

FORMATS: dict[str, Callable[[str], str | None]] = {
    "plain": lambda owner: None,
    "fp8": lambda owner: "fp8_e4m3:16x32",
    "fp8 whole": lambda owner: None if owner.endswith("experts") else "fp8_e4m3:128x128",
    "deepseek": lambda owner: (
        "mxfp4" if owner.endswith("experts") else "fp8_e4m3:1x32" if "table" in owner else "fp8_e4m3:16x16"
    ),
    "int8": lambda owner: "int8:row",
    "int8 columns": lambda owner: None if owner.endswith("experts") else "int8:channel",
}


@pytest.mark.parametrize("naming", ["deepseek", "transformers"])
@pytest.mark.parametrize("chosen", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_naming_and_format(tmp_path: Path, standins: Any, naming: str, chosen: str, dtype: torch.dtype) -> None:
    config = replace(standins.config, engram=standins.engram)
    model = standins.quantise(standins.filled(config, dtype), FORMATS[chosen])
    block = {"fp8": [16, 32], "deepseek": [16, 16]}.get(chosen, [128, 128])
    hint = {"quantization_config": {"weight_block_size": block}}
    standins.write(model, tmp_path, naming, config=hint)
    found = standins.standin(config)
    loaded = load_weights(found, tmp_path)
    standins.same(found, model)
    assert loaded.tensors == len(model.state_dict())
    assert loaded.nbytes == sum(t.numel() * t.element_size() for t in model.state_dict().values())
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name, p in found.named_parameters() if p.requires_grad} == learning


@pytest.mark.parametrize("power_of_two", [True, False])
def test_values_agree_with_transformers(tmp_path: Path, standins: Any, power_of_two: bool) -> None:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    model = standins.quantise(standins.filled(), FORMATS["fp8"], power_of_two)
    if power_of_two:
        model = standins.quantise(standins.filled(), FORMATS["deepseek"])
    files = standins.write(model, tmp_path)
    found = standins.standin()
    load_weights(found, tmp_path)
    oracle: Any = Fp8Dequantize(None)

    def theirs(name: str) -> Tensor:
        pair = {"weight": files[f"{name}.weight"], "weight_scale_inv": files[f"{name}.scale"].float()}
        values: Tensor = oracle.convert(pair)["weight"]
        return values

    attention = found.get_submodule("layers.1.attn.wo_a")
    ours = formats.decode(attention.weight, attention.scale, attention.format, torch.float32)  # type: ignore[arg-type]
    assert torch.equal(ours, theirs("layers.1.attn.wo_a"))
    experts: Any = found.get_submodule("layers.1.ffn.experts")
    w13 = formats.decode(experts.w13, experts.w13_scale, experts.format, torch.float32)
    w2 = formats.decode(experts.w2, experts.w2_scale, experts.format, torch.float32)
    for e in range(4):
        w1, w2_, w3 = (theirs(f"layers.1.ffn.experts.{e}.w{i}") for i in (1, 2, 3))
        assert torch.equal(w13[e], torch.cat((w1, w3)))
        assert torch.equal(w2[e], w2_)


@pytest.mark.parametrize("hybrid", [True, False])
def test_what_transformers_saves(tmp_path: Path, standins: Any, hybrid: bool) -> None:
    from transformers import DeepseekV4Config, DeepseekV4ForCausalLM

    write_config(standins.config, tmp_path, "transformers")
    theirs = DeepseekV4ForCausalLM(DeepseekV4Config.from_pretrained(tmp_path))
    torch.manual_seed(1)
    for name, tensor in theirs.state_dict().items():
        values = torch.rand(tensor.shape).argsort(-1) if name.endswith("tid2eid") else torch.randn(tensor.shape)
        tensor.copy_(values)
    if hybrid:
        theirs.save_pretrained(tmp_path, max_shard_size="100KB")
        assert (tmp_path / "model.safetensors.index.json").exists()
    else:
        save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    ours = standins.standin()
    load_weights(ours, tmp_path)
    layer, module = theirs.model.layers[1], ours.get_submodule("layers.1")
    for name, tensor in {
        "hc_attn_scale": layer.attn_hc.scale, "attn.kv_norm.weight": layer.self_attn.kv_norm.weight,
        "attn.attn_sink": layer.self_attn.sinks, "ffn.experts.w13": layer.mlp.experts.gate_up_proj,
        "attn.indexer.compressor.ape": layer.self_attn.compressor.indexer.position_bias,
        "attn.compressor.norm.weight": layer.self_attn.compressor.kv_norm.weight,
        "attn.indexer.weights_proj.weight": layer.self_attn.compressor.indexer.scorer.weights_proj.weight,
        "ffn.gate.bias": layer.mlp.gate.e_score_correction_bias,
        "ffn.shared_experts.w3.weight": layer.mlp.shared_experts.up_proj.weight,
    }.items():  # fmt: skip
        assert torch.equal(module.state_dict()[name], tensor), name
    assert torch.equal(ours.state_dict()["head.weight"], theirs.lm_head.weight)
    assert torch.equal(ours.state_dict()["layers.0.ffn.gate.tid2eid"], theirs.model.layers[0].mlp.gate.tid2eid)


def test_dtype(tmp_path: Path, standins: Any) -> None:
    """A dtype converts plain tensors, but for those that are always float32, and leaves quantised ones."""
    model = standins.quantise(standins.filled(), lambda owner: "fp8_e4m3:16x16" if owner.endswith("wkv") else None)
    standins.write(model, tmp_path, tensors={"norm.weight": model.state_dict()["norm.weight"].bfloat16()})
    found = standins.standin()
    load_weights(found, tmp_path, dtype=torch.bfloat16)
    tensors = found.state_dict()
    assert torch.equal(tensors["embed.weight"], model.state_dict()["embed.weight"].bfloat16())
    for name in (
        "norm.weight",
        "layers.0.attn.attn_sink",
        "layers.1.ffn.gate.bias",
        "layers.1.hc_attn_fn",
        "layers.1.attn.compressor.ape",
    ):
        assert tensors[name].dtype == torch.float32, name
    assert tensors["layers.0.attn.wkv.weight"].dtype == torch.float8_e4m3fn
    assert tensors["layers.0.ffn.experts.w2"].dtype == torch.bfloat16


def test_prediction_layers_are_skipped_and_counted(tmp_path: Path, standins: Any) -> None:
    model = standins.filled()
    standins.write(model, tmp_path, tensors={"mtp.0.norm.weight": torch.ones(3), "mtp.0.h_proj.weight": torch.ones(3)})
    found = standins.standin()
    assert load_weights(found, tmp_path).skipped == 2
    standins.same(found, model)


def refused(directory: Path, model: Any, **options: Any) -> str:
    with pytest.raises(BadInput) as caught:
        load_weights(model, directory, **options)
    assert all(t.is_meta for t in model.state_dict().values()), "the model was touched"
    return str(caught.value).replace(f"{directory}", "DIR")


def test_everything_that_does_not_fit_is_listed(tmp_path: Path, standins: Any) -> None:
    changes = {
        "head.weight": None, "layers.0.ffn.experts.3.w1.weight": None, "layers.0.ffn.experts.4.w1.weight": torch.ones(32, 64),
        "layers.1.attn.wkv.weight": torch.ones(32, 65), "layers.1.ffn.experts.2.w3.weight": torch.ones(31, 64),
        "lm_heads.weight": torch.ones(2), "layers.3.attn_norm.weight": torch.ones(64),
        "layers.2.ffn.gate.scale": torch.ones(1, 1),
        "layers.2.attn.wkv.weight": torch.ones(32, 64).to(torch.int8), "model.norm.weight": torch.ones(64),
        "layers.2.attn.wq_a.scale": torch.ones(1, 1), "layers.0.ffn.gate.tid2eid": torch.ones(48, 2),
    }  # fmt: skip
    standins.write(standins.filled(), tmp_path, tensors=changes)
    assert (
        refused(tmp_path, standins.standin())
        == """\
DIR: does not fit the model: 2 missing, 1 repeated, 4 unexpected, 3 wrong format, 2 wrongly shaped
  missing: head.weight
  missing: layers.0.ffn.experts.3.w1.weight
  repeated: norm.weight, also called model.norm.weight
  unexpected: layers.0.ffn.experts.4.w1.weight
  unexpected: layers.2.ffn.gate.scale
  unexpected: layers.3.attn_norm.weight
  unexpected: lm_heads.weight
  wrong format: layers.0.ffn.gate.tid2eid: torch.float32 without a scale, where a torch.int64 belongs
  wrong format: layers.2.attn.wkv.weight: torch.int8 without a scale, where a torch.float32 belongs
  wrong format: layers.2.attn.wq_a: no format has float32 data with float32 scales
  wrongly shaped: layers.1.attn.wkv.weight: [32, 65] in the file, [32, 64] in the model
  wrongly shaped: layers.1.ffn.experts.2.w3.weight: [31, 64] in the file, [32, 64] in the model"""
    )


def test_scales_that_do_not_fit(tmp_path: Path, standins: Any) -> None:
    model = standins.quantise(standins.filled(), FORMATS["deepseek"])
    experts = "layers.0.ffn.experts"
    changes = {
        f"{experts}.1.w1.scale": None, f"{experts}.2.w2.scale": torch.ones(64, 2).to(torch.float8_e8m0fnu),
        "layers.1.attn.wkv.scale": torch.ones(5, 4), "layers.1.attn.wq_a.scale": torch.ones(2, 4, dtype=torch.bfloat16),
        "layers.2.ffn.experts.0.w1.weight": torch.ones(32, 64),
    }  # fmt: skip
    standins.write(model, tmp_path, tensors=changes)
    assert (
        refused(tmp_path, standins.standin())
        == """\
DIR: does not fit the model: 1 missing, 3 wrong format, 1 wrongly shaped
  missing: layers.0.ffn.experts.1.w1.scale
  wrong format: layers.1.attn.wkv: no block size gives its number of scales along rows
  wrong format: layers.1.attn.wq_a: no format has float8_e4m3fn data with bfloat16 scales
  wrong format: layers.2.ffn.experts: its matrices and scales do not go together
  wrongly shaped: layers.0.ffn.experts.2.w2.scale: [64, 2] in the file, [64, 1] in the model"""
    )


def test_experts_that_differ_in_dtype(tmp_path: Path, standins: Any) -> None:
    standins.write(standins.filled(), tmp_path, tensors={"layers.0.ffn.experts.0.w2.weight": torch.ones(64, 32).half()})
    assert refused(tmp_path, standins.standin()).splitlines()[1:] == [
        "  wrong format: layers.0.ffn.experts.w2: its experts differ in dtype; name the dtype to load"
    ]
    load_weights(standins.standin(), tmp_path, dtype=torch.float32)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layers.0.attn.wq_a.weight", 0x7F), ("layers.0.attn.wq_a.weight", 0xFF), ("layers.0.attn.wq_a.scale", 0xFF),
        ("layers.1.ffn.experts.2.w3.scale", 0xFF), ("norm.weight", float("inf")), ("embed.weight", float("nan")),
    ],
)  # fmt: skip
def test_values_that_are_not_finite(tmp_path: Path, standins: Any, name: str, value: Any) -> None:
    model = standins.quantise(standins.filled(), FORMATS["deepseek"])
    tensors = standins.write(model, tmp_path)
    flat = tensors[name].view(-1)
    (flat.view(torch.uint8) if isinstance(value, int) else flat)[-1] = value
    save_file(tensors, tmp_path / "model.safetensors")
    line = f"DIR/model.safetensors: {name} has values that are not finite in {flat.dtype}"
    assert refused(tmp_path, standins.standin()) == line


def test_float32_scales_that_are_not_finite(tmp_path: Path, standins: Any) -> None:
    model = standins.quantise(standins.filled(), FORMATS["fp8"], power_of_two=False)
    standins.write(model, tmp_path, tensors={"layers.0.attn.wkv.scale": torch.full((2, 2), torch.inf)})
    assert refused(tmp_path, standins.standin()) == (
        "DIR/model.safetensors: layers.0.attn.wkv.scale has values that are not finite in torch.float32"
    )


def test_values_that_a_dtype_cannot_hold(tmp_path: Path, standins: Any) -> None:
    standins.write(standins.filled(), tmp_path, tensors={"head.weight": torch.full((48, 64), 1e6)})
    assert refused(tmp_path, standins.standin(), dtype=torch.float16) == (
        "DIR/model.safetensors: head.weight has values that are not finite in torch.float16"
    )


def test_tables_of_ids(tmp_path: Path, standins: Any) -> None:
    config = replace(standins.config, engram=standins.engram)
    model = standins.filled(config)
    table = model.state_dict()["layers.0.ffn.gate.tid2eid"]
    for name, wrong, line in (
        ("layers.0.ffn.gate.tid2eid", torch.where(table == 3, 4, table), "has ids outside 0 ... 3"),
        ("layers.0.ffn.gate.tid2eid", table - 1, "has ids outside 0 ... 3"),
        ("layers.0.ffn.gate.tid2eid", table * 0, "sends a token to the same expert twice"),
        ("engram_token_map", torch.full((48,), 48), "has ids outside 0 ... 47"),
    ):
        standins.write(model, tmp_path, tensors={name: wrong})
        assert refused(tmp_path, standins.standin(config)) == f"{name}: {line}"
    standins.write(model, tmp_path, tensors={"layers.0.ffn.gate.tid2eid": table.int()})
    found = standins.standin(config)
    load_weights(found, tmp_path)
    standins.same(found, model)


def test_memory_is_checked_first(tmp_path: Path, standins: Any) -> None:
    standins.write(standins.filled(), tmp_path)
    need = sum(t.numel() * t.element_size() for t in standins.filled().state_dict().values())
    assert refused(tmp_path, standins.standin(), free=need - 1) == (
        f"needs {need / 1e9:.1f} GB on cpu, {(need - 1) / 1e9:.1f} GB free"
    )
    asked = []
    load_weights(standins.standin(), tmp_path, free=lambda device: asked.append(device) or need)  # type: ignore[func-returns-value]
    assert asked == [torch.device("cpu")]


def test_memory_is_checked_on_each_device(tmp_path: Path, standins: Any) -> None:
    """What goes to another device is not counted on the host."""
    standins.write(standins.filled(), tmp_path)
    found = standins.standin()
    free = {torch.device("meta"): 9, torch.device("cpu"): 10**12}
    line = refused(tmp_path, found, device=lambda name: "meta" if name == "head.weight" else "cpu", free=free.get)
    assert line == "needs 0.0 GB on meta, 0.0 GB free"


def test_a_device_for_each_tensor(tmp_path: Path, standins: Any) -> None:
    config = replace(standins.config, engram=standins.engram)
    model = standins.filled(config)
    standins.write(model, tmp_path)
    found = standins.standin(config)
    asked: list[str] = []
    load_weights(found, tmp_path, device=lambda name: asked.append(name) or "cpu")  # type: ignore[func-returns-value]
    standins.same(found, model)
    assert set(asked) == set(model.state_dict())


def test_progress_and_interruption(tmp_path: Path, standins: Any) -> None:
    standins.write(standins.filled(), tmp_path)
    steps: list[tuple[int, int]] = []
    load_weights(standins.standin(), tmp_path, progress=lambda done, total: steps.append((done, total)))
    assert steps == sorted(steps)
    assert (
        steps[-1][0]
        == steps[-1][1]
        == sum(t.numel() * t.element_size() for t in standins.filled().state_dict().values())
    )
    found = standins.standin()

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_weights(found, tmp_path, progress=interrupt)
    assert all(t.is_meta for t in found.state_dict().values())


def test_weights_are_in_memory_once(tmp_path: Path, standins: Any) -> None:
    config = replace(standins.config, vocab_size=400_000)  # 205 MB
    standins.write(standins.standin(config, "cpu", leave_out=("layers.0.ffn.gate.tid2eid",)), tmp_path)
    found = standins.standin(config, leave_out=("layers.0.ffn.gate.tid2eid",))
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    before = resident("VmRSS")
    loaded = load_weights(found, tmp_path)
    assert resident("VmHWM") - before < 1.3 * loaded.nbytes + 20e6


def resident(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def sample(rows: Span, columns: Span) -> Sample:
    return Sample(torch.float8_e4m3fn, torch.float32, rows, columns)


@pytest.mark.parametrize(
    ("rows", "hint", "found"),
    [
        ([Span(8192, 64)], None, "128"),
        (
            [Span(200, 2)],
            None,
            "blocks of 100 or 128 rows fit; config.json must say which in quantization_config.weight_block_size",
        ),
        ([Span(200, 2)], 128, "128"),
        ([Span(200, 2)], 100, "100"),
        ([Span(96, 1)], None, "128"),
        ([Span(96, 1)], 512, "512"),
        ([Span(96, 1, True), Span(64, 1)], 128, "96"),
        ([Span(96, 1, True), Span(200, 1)], 256, "blocks of 256 rows straddle the stacked matrices of 96"),
        ([Span(192, 2, True)], 128, "blocks of 128 rows straddle the stacked matrices of 192"),
        ([Span(256, 2, True), Span(300, 3)], None, "128"),
        ([Span(24_000_000, 24_000_000)], 128, "1"),
        ([Span(16, 5)], None, "no block size gives its number of scales along rows"),
    ],
)
def test_blocks(rows: list[Span], hint: int | None, found: str) -> None:
    samples = [sample(span, Span(64, 2)) for span in rows]
    try:
        result = infer_format(samples, (hint, 32) if hint else (None, None))
    except ValueError as error:
        result = f"fp8_e4m3:{error}x32"
    assert result == f"fp8_e4m3:{found}x32"


def test_stated_formats(tmp_path: Path, standins: Any) -> None:
    """What our own files state goes before what shapes suggest, and is checked."""
    model = standins.quantise(standins.filled(), lambda owner: "fp8_e4m3:48x32" if owner.endswith("w1") else None)
    save_weights(model, standins.config, tmp_path)
    found = standins.standin()
    load_weights(found, tmp_path)
    standins.same(found, model)
    for stated, line in (
        ("int8:row", "the file's metadata says int8:row, but the tensors are fp8_e4m3"),
        (
            "fp9",
            "no number format is called 'fp9'; there are: plain, fp8_e4m3:RxC, fp8_e4m3fnuz:RxC, mxfp4, int8:row, int8:channel",
        ),
    ):
        path = tmp_path / "model.safetensors"
        old = path.read_bytes()
        length = int.from_bytes(old[:8], "little")
        header = json.loads(old[8 : 8 + length])
        header["__metadata__"]["deepport.format.layers.0.ffn.shared_experts.w1"] = stated
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + old[8 + length :])
        assert refused(tmp_path, standins.standin()).splitlines()[1] == (
            f"  wrong format: layers.0.ffn.shared_experts.w1: {line}"
        )
