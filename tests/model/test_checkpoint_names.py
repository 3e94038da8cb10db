"""Names: every naming leads to the model's own, and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepport_model.checkpoint import names
from deepport_model.checkpoint.names import Place, is_prediction, place, scale_name, spell

WHOLE = sorted(names._TO_TRANSFORMERS)
NAMINGS = st.sampled_from(["deepseek", "transformers"])


@given(NAMINGS, st.sampled_from(WHOLE), st.integers(0, 999), st.integers(1, 5))
def test_every_spelling_leads_back(naming: Any, leaf: str, layer: int, experts: int) -> None:
    top = leaf.split(".")[0] in ("embed", "head", "norm") or leaf.startswith("hc_head")
    target = leaf if top else f"layers.{layer}.{leaf}"
    spelt = list(spell(target, naming, experts))
    assert [place(name) for name, _ in spelt] == [where for _, where in spelt]
    assert [place(f"model.{name}") for name, _ in spelt if not name.startswith("model.")] in (
        [where for _, where in spelt],
        [],
    )


@given(NAMINGS)
def test_spellings_are_distinct(naming: Any) -> None:
    spelt = [name for leaf in WHOLE for name, _ in spell(f"layers.1.{leaf}", naming, 3)]
    assert len(set(spelt)) == len(spelt)


@given(st.text())
def test_an_unknown_name_is_its_own_target(name: str) -> None:
    assert isinstance(place(name).target, str)
    assert place(f"layers.0.nonsense.{name}") == Place(f"layers.0.nonsense.{name}") or name.endswith("weight_scale_inv")


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("model.layers.3.attn.norm.weight", "layers.3.attn.kv_norm.weight"),
        ("model.layers.3.self_attn.norm.weight", "layers.3.attn.kv_norm.weight"),
        ("model.layers.3.self_attn.compressor.indexer.norm.weight", "layers.3.attn.indexer.compressor.norm.weight"),
        ("model.hc_head.hc_fn", "hc_head_fn"),
        ("model.layers.0.attn.wq_a.weight_scale_inv", "layers.0.attn.wq_a.scale"),
        ("model.layers.0.self_attn.q_a_proj.weight_scale_inv", "layers.0.attn.wq_a.scale"),
        ("model.layers.0.self_attn.q_a_proj.scale", "layers.0.attn.wq_a.scale"),
        ("layers.0.attn_hc.scale", "layers.0.hc_attn_scale"),
        ("model.layers.0.mlp.experts.gate_up_proj_scale_inv", "layers.0.ffn.experts.w13_scale"),
        ("layers.7.engram.table.rows", "layers.7.engram.table.rows"),
        ("lm_head.weight", "head.weight"),
    ],
)
def test_single_names(name: str, target: str) -> None:
    assert place(name) == Place(target)


def test_experts_go_to_their_half() -> None:
    assert place("layers.2.ffn.experts.11.w3.weight_scale_inv") == Place("layers.2.ffn.experts.w13_scale", 11, "w3")
    stacked = torch.arange(2 * 4 * 3).view(2, 4, 3)
    assert torch.equal(Place("w13", 1, "w1").view(stacked), stacked[1, :2])
    assert torch.equal(Place("w13", 1, "w3").view(stacked), stacked[1, 2:])
    assert torch.equal(Place("w2", 0, "w2").view(stacked), stacked[0])
    assert place("layers.2.ffn.experts.011.w3.weight").expert is None


def test_prediction_layers() -> None:
    assert is_prediction("mtp.0.attn.wq_a.weight")
    assert is_prediction("model.mtp.0.x")
    assert not is_prediction("layers.0.mtp.x")


def test_only_weights_have_scales() -> None:
    assert scale_name("layers.0.hc_attn_scale") is None
    assert scale_name("layers.0.ffn.experts.w2") == "layers.0.ffn.experts.w2_scale"


@pytest.mark.parametrize("hybrid", [False, True])
def test_transformers_own_names(standins: Any, tmp_path: Path, hybrid: bool) -> None:
    from safetensors import safe_open

    model = transformers_model(standins.config)
    found = list(model.state_dict())
    if hybrid:
        model.save_pretrained(tmp_path)
        with safe_open(tmp_path / "model.safetensors", "pt") as file:
            found = list(file.keys())
    assert {place(name).target for name in found} == set(standins.shapes(replace(standins.config, engram=None)))
    if not hybrid:
        spelt = [name for target in standins.shapes(standins.config) for name, _ in spell(target, "transformers", 4)]
        assert sorted(spelt) == sorted(found)


def transformers_model(config: Any) -> Any:
    from tempfile import TemporaryDirectory

    from transformers import DeepseekV4Config, DeepseekV4ForCausalLM

    from deepport_model.checkpoint import write_config

    with TemporaryDirectory() as directory:
        write_config(config, directory, "transformers")
        return DeepseekV4ForCausalLM(DeepseekV4Config.from_pretrained(directory))
