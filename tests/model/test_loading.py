"""deepport.load: checkpoints in every naming give the oracle's logits; presets, placements, and what cannot be loaded."""

import json
from pathlib import Path

import pytest
import torch
from oracles.deepseek_v4 import SHAPES, VOCABULARY, config, margins, oracle, ours, relative_error
from safetensors.torch import save_file
from torch import Tensor

import deepport
from deepport import formats
from deepport.errors import BackendUnavailable, BadInput
from deepport_model.checkpoint import save_weights
from deepport_model.config import Config, EngramConfig
from deepport_model.engram import EngramTable
from deepport_model.loading import on_meta
from deepport_model.modules import Linear
from deepport_model.moe import Experts
from deepport_model.presets import PRESETS
from deepport_model.transformer import Transformer, initialize

BOUND = 2e-5
SHAPE = SHAPES["flash-schedule"]
IDS = torch.randint(0, VOCABULARY, (1, 77), generator=torch.Generator().manual_seed(1))


def write(naming: str, directory: Path) -> Tensor:
    """A checkpoint as its naming's author writes it; returns the oracle's logits."""
    for seed in range(8):
        model = oracle(SHAPE, seed)
        with torch.no_grad(), margins() as margin:
            ours(SHAPE, model)(IDS)
        if margin.least > 1e-5:
            break
    if naming == "save_pretrained":
        model.save_pretrained(directory)
    elif naming == "modules":
        directory.mkdir()
        model.config.save_pretrained(directory)
        save_file(model.state_dict(), directory / "model.safetensors")
    else:
        save_weights(ours(SHAPE, model), config(SHAPE), directory, naming="deepseek")
    with torch.no_grad():
        logits: Tensor = model(IDS).logits
    return logits


@pytest.mark.parametrize("naming", ["save_pretrained", "modules", "deepseek"])
def test_logits_of_a_reloaded_checkpoint(naming: str, tmp_path: Path) -> None:
    expected = write(naming, tmp_path / "model")
    model = deepport.load(tmp_path / "model", device="cpu")
    with torch.no_grad():
        assert relative_error(model(IDS), expected) < BOUND
        assert relative_error(model(IDS, "last"), expected[:, -1:]) < BOUND
    assert model.config.compress_ratios == SHAPE.ratios


def quantise(model: Transformer) -> None:
    """In place, as DeepSeek does: experts MXFP4, dense layers FP8 by blocks, memory rows FP8 by 32."""
    for module in model.modules():
        if isinstance(module, Experts):
            w13, w13_scale = formats.encode(module.w13, "mxfp4")
            w2, w2_scale = formats.encode(module.w2, "mxfp4")
            module.format = "mxfp4"
            module.w13, module.w13_scale = frozen(w13), frozen(w13_scale)
            module.w2, module.w2_scale = frozen(w2), frozen(w2_scale)
        elif isinstance(module, (Linear, EngramTable)):
            name = "weight" if isinstance(module, Linear) else "rows"
            module.format = "fp8_e4m3:8x32" if isinstance(module, Linear) else "fp8_e4m3:1x32"
            data, scale = formats.encode(getattr(module, name), module.format)
            setattr(module, name, frozen(data))
            module.scale = frozen(scale)


def frozen(x: Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(x.detach(), requires_grad=False)


def quantisable() -> Config:
    """Every width a multiple of 32."""
    return Config(
        vocab_size=64, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, head_dim=32, qk_rope_head_dim=8,
        q_lora_rank=32, o_groups=2, o_lora_rank=32,
        compress_ratios=(0, 4, 128), hash_layers=(True, False, False), n_routed_experts=4,
        num_experts_per_tok=2, moe_intermediate_size=32, index_n_heads=8, index_head_dim=32, index_topk=64, hc_mult=2,
        engram=EngramConfig((1,), (50, 50), 64, n_embed_per_ngram=64, n_head_per_ngram=2),
    )  # fmt: skip


def test_a_quantised_model_computes_what_its_dequantised_twin_does(tmp_path: Path) -> None:
    model = initialize(Transformer(quantisable())).eval()
    quantise(model)
    save_weights(model, model.config, tmp_path / "model")
    loaded = deepport.load(tmp_path / "model", device="cpu")
    assert {m.format for m in loaded.transformer.modules() if isinstance(m, (Linear, Experts))} == {
        "fp8_e4m3:8x32",
        "mxfp4",
    }
    twin = initialize(Transformer(quantisable())).eval()
    for mine, theirs in zip(model.modules(), twin.modules(), strict=True):
        for weight, scale in (("weight", "scale"), ("rows", "scale"), ("w13", "w13_scale"), ("w2", "w2_scale")):
            if getattr(mine, "format", formats.PLAIN) != formats.PLAIN and hasattr(mine, weight):
                data = formats.decode(getattr(mine, weight), getattr(mine, scale), mine.format, torch.float32)  # type: ignore[arg-type]
                getattr(theirs, weight).data.copy_(data)
    with torch.no_grad():
        # Dequantised alike, then the same float32 arithmetic: equal but for nothing.
        assert torch.equal(loaded(IDS), twin(IDS))


def test_memories_on_the_host_give_the_same_logits(tmp_path: Path) -> None:
    model = initialize(Transformer(quantisable())).eval()
    save_weights(model, model.config, tmp_path / "model")
    device, host = (deepport.load(tmp_path / "model", device="cpu", engram=place) for place in ("device", "host"))
    with torch.inference_mode():
        assert torch.equal(device(IDS), host(IDS))
    table = next(m for m in host.transformer.modules() if isinstance(m, EngramTable))
    assert table.placement == "host"


def test_presets_have_the_published_sizes() -> None:
    counts = {
        name: sum(p.numel() for p in on_meta(c).parameters()) for name, c in PRESETS.items() if name != "mini-engram"
    }
    assert counts["mini"] == pytest.approx(884e6, rel=1e-3)
    assert counts["v4-flash"] == pytest.approx(284e9, rel=5e-3)
    assert counts["v4-pro"] == pytest.approx(1.6e12, rel=2e-2)


def test_a_preset_that_does_not_fit_says_what_it_needs() -> None:
    with pytest.raises(BadInput, match=r"needs 56\d\.\d GB on cpu, \d+\.\d GB are free"):
        deepport.load("v4-flash", device="cpu", dtype="bfloat16")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"dtype": "int3"}, "dtype 'int3' is unknown; there are: float32, bfloat16, float16"),
        ({"engram": "moon"}, "engram='moon': a table is placed on one of: device, host"),
        ({"device": "cpu:x"}, "what follows the colon is a device number"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, str], text: str) -> None:
    with pytest.raises(BadInput, match=text):
        deepport.load("mini", **{"device": "cpu"} | options)  # type: ignore[arg-type]


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(
        BackendUnavailable, match="no backend is called 'abacus'; installed: cpu, cuda, interpreter, npu, rocm"
    ):
        deepport.load("mini", device="abacus")


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nowhere"):
        deepport.load(tmp_path / "nowhere", device="cpu")


def test_an_engram_model_with_another_models_tokenizer(tmp_path: Path) -> None:
    model = initialize(Transformer(quantisable())).eval()
    vocabulary = {"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0, "A": 1, "b": 2}, "unk_token": "a"}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(vocabulary))
    save_weights(model, model.config, tmp_path / "model", tokenizer=tmp_path / "tokenizer.json")
    with pytest.raises(BadInput, match="compress to 2, but compressed_vocab_size is 64"):
        deepport.load(tmp_path / "model", device="cpu")
