"""config.json in both spellings: what it says, what it must not say, and what transformers makes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepport.errors import BadInput
from deepport_model.checkpoint import read_config, write_config
from deepport_model.config import Config, EngramConfig, Yarn

FLASH = {
    "architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4", "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 0, "eos_token_id": 1, "hc_eps": 1e-06, "hc_mult": 4, "hc_sinkhorn_iters": 20, "head_dim": 512,
    "hidden_act": "silu", "hidden_size": 4096, "index_head_dim": 128, "index_n_heads": 64, "index_topk": 512,
    "initializer_range": 0.02, "max_position_embeddings": 1048576, "moe_intermediate_size": 2048, "n_routed_experts": 256,
    "n_shared_experts": 1, "norm_topk_prob": True, "num_attention_heads": 64, "num_experts_per_tok": 6, "num_hash_layers": 3,
    "num_hidden_layers": 43, "num_key_value_heads": 1, "num_nextn_predict_layers": 1, "o_groups": 8, "o_lora_rank": 1024,
    "q_lora_rank": 1024, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06, "rope_theta": 10000, "routed_scaling_factor": 1.5,
    "rope_scaling": {
        "beta_fast": 32, "beta_slow": 1, "factor": 16, "original_max_position_embeddings": 65536, "type": "yarn"
    },
    "scoring_func": "sqrtsoftplus", "sliding_window": 128, "swiglu_limit": 10.0, "tie_word_embeddings": False,
    "topk_method": "noaux_tc", "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 129280,
    "compress_rope_theta": 160000, "compress_ratios": [0, 0] + [4, 128] * 20 + [4, 0], "expert_dtype": "fp4",
    "quantization_config": {"quant_method": "fp8", "scale_fmt": "ue8m0", "weight_block_size": [128, 128]},
}  # fmt: skip
"""DeepSeek-V4-Flash's sizes and schedule (facts/deepseek-v4.md) in DeepSeek's spelling, with the MTP layer's ratio at the end."""


def read(directory: Path, values: Any) -> Config:
    (directory / "config.json").write_text(values if isinstance(values, str) else json.dumps(values))
    return read_config(directory)


@st.composite
def configs(draw: Any) -> Config:
    layers = draw(st.integers(1, 5))
    head = draw(st.integers(8, 300))
    csa, hca = draw(st.sampled_from([(4, 128), (2, 16), (4, 8)]))
    hashed = draw(st.integers(0, layers))
    engram = EngramConfig((0,), (97, 10**7), 20, boundary_id=draw(st.sampled_from([None, 3])), zero="copysign")
    yarn = Yarn(draw(st.floats(1, 64)), 4096, 16.0, 2.0, draw(st.floats(0.5, 2)))
    return Config(
        vocab_size=64, hidden_size=32, num_hidden_layers=layers, num_attention_heads=4, head_dim=head, q_lora_rank=8,
        qk_rope_head_dim=2 * draw(st.integers(1, head // 2)), o_groups=2, o_lora_rank=8, n_routed_experts=4,
        compress_ratios=tuple(draw(st.lists(st.sampled_from([0, csa, hca]), min_size=layers, max_size=layers))),
        hash_layers=tuple(i < hashed for i in range(layers)), csa_ratio=csa,
        num_experts_per_tok=2, moe_intermediate_size=16, index_n_heads=2, index_head_dim=300, index_topk=4,
        rope_theta=draw(st.floats(1, 1e7)), yarn=draw(st.sampled_from([None, yarn])),
        eos_token_id=draw(st.sampled_from([(), (1,), (1, 5)])), engram=draw(st.sampled_from([None, engram])),
        bos_token_id=draw(st.sampled_from([None, 0])), swiglu_limit=draw(st.sampled_from([None, 7.5])),
    )  # fmt: skip


@given(configs(), st.sampled_from(["deepseek", "transformers"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_round_trip(tmp_path: Path, config: Config, spelling: Any) -> None:
    write_config(config, tmp_path, spelling)
    assert read_config(tmp_path) == config


def test_hash_layers_anywhere(tmp_path: Path, standins: Any) -> None:
    config = replace(standins.config, hash_layers=(False, True, True))
    write_config(config, tmp_path, "transformers")
    assert read_config(tmp_path) == config
    with pytest.raises(
        BadInput, match=r"^config: hash_layers are not the first layers, which num_hash_layers cannot say; "
    ):
        write_config(config, tmp_path)


def test_two_ratios_without_overlap_are_only_deepseeks(tmp_path: Path, standins: Any) -> None:
    config = replace(standins.config, compress_ratios=(8, 4, 128))
    write_config(config, tmp_path)
    assert read_config(tmp_path) == config
    with pytest.raises(BadInput, match=r"^config: transformers' spelling has one ratio without overlap"):
        write_config(config, tmp_path, "transformers")


def test_flash(tmp_path: Path) -> None:
    config = read(tmp_path, FLASH)
    assert config.compress_ratios == (0, 0, *(4, 128) * 20, 4)
    assert config.hash_layers == (True,) * 3 + (False,) * 40
    assert config.yarn == Yarn(16.0, 65536, 32.0, 1.0, 1.0)
    assert (config.rope_theta, config.compress_rope_theta, config.qk_rope_head_dim) == (1e4, 16e4, 64)


@pytest.mark.parametrize("scaling", [FLASH["rope_scaling"], None, {**FLASH["rope_scaling"], "mscale": 1.0}])  # type: ignore[dict-item]
def test_transformers_reads_the_same(tmp_path: Path, scaling: Any) -> None:
    """What transformers makes of DeepSeek's spelling and saves in its own is what we make of both."""
    from transformers import DeepseekV4Config

    ours = read(tmp_path, {**FLASH, "rope_scaling": scaling})
    DeepseekV4Config.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert read_config(tmp_path) == ours


@pytest.mark.parametrize("spelling", ["deepseek", "transformers"])
@pytest.mark.parametrize("yarn", [Yarn(), None])
def test_transformers_reads_what_we_write(tmp_path: Path, standins: Any, spelling: Any, yarn: Yarn | None) -> None:
    from transformers import DeepseekV4Config

    config = replace(standins.config, yarn=yarn)
    write_config(config, tmp_path, spelling)
    theirs = DeepseekV4Config.from_pretrained(tmp_path)
    for name in ("hidden_size", "head_dim", "qk_rope_head_dim", "hc_eps", "bos_token_id", "swiglu_limit", "vocab_size"):
        assert getattr(theirs, name) == getattr(config, name)
    assert theirs.layer_types[1:] == ["compressed_sparse_attention", "heavily_compressed_attention"]
    assert theirs.mlp_layer_types == ["hash_moe", "moe", "moe"]
    assert theirs.rope_parameters["compress"]["rope_theta"] == config.compress_rope_theta
    assert theirs.rope_parameters["compress"].get("attention_factor") == (yarn and yarn.attention_factor)


@pytest.mark.parametrize(
    "more", [{}, {"mscale": 0.7, "mscale_all_dim": 1.3}, {"attention_factor": 1.5}, {"beta_fast": None}]
)
def test_nested_yarn_scales_as_transformers_does(tmp_path: Path, more: dict[str, Any]) -> None:
    """Without an attention_factor, nested parameters get YaRN's own, which is not 1."""
    from transformers import DeepseekV4Config
    from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4RotaryEmbedding

    part = {"rope_theta": 5000.0, "partial_rotary_factor": 0.125}
    yarn = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 131072, **part, **more}
    main = {"rope_type": "default", **part}
    values = {**FLASH, "rope_scaling": None, "rope_parameters": {"main": main, "compress": yarn}}
    config = read(tmp_path, values)
    rotary: Any = DeepseekV4RotaryEmbedding(DeepseekV4Config.from_pretrained(tmp_path))
    assert config.yarn is not None
    assert config.yarn.attention_factor == rotary.compress_attention_scaling
    assert config.rope_theta == config.compress_rope_theta == 5000.0


REFUSED = [
    ({"model_type": "llama"}, "model_type is 'llama'; supported: deepseek_v4"),
    ({"model_type": "deepseek_v41"}, "model_type is 'deepseek_v41'; supported: deepseek_v4"),
    ({"model_type": None}, "model_type is None; supported: deepseek_v4"),
    ({"model_type": 3}, "model_type must be a string, not 3"),
    ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; supported: \"silu\""),
    ({"attention_bias": True}, "attention_bias is True; supported: false"),
    ({"mlp_bias": True}, "mlp_bias is True; supported: false"),
    ({"tie_word_embeddings": True}, "tie_word_embeddings is True; supported: false"),
    ({"norm_topk_prob": False}, "norm_topk_prob is False; supported: true"),
    ({"topk_method": "greedy"}, "topk_method is 'greedy'; supported: \"noaux_tc\""),
    ({"num_key_value_heads": 8}, "num_key_value_heads is 8; supported: 1"),
    ({"attention_dropout": 0.1}, "attention_dropout is 0.1; supported: 0.0"),
    ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config: quant_method is 'gptq'; supported: fp8"),
    ({"quantization_config": []}, "quantization_config must be an object, not []"),
    ({"hidden_size": 4096.0}, "hidden_size must be an integer, not 4096.0"),
    ({"hidden_size": True}, "hidden_size must be an integer, not True"),
    ({"hidden_size": None}, "hidden_size must be an integer, not None"),
    ({"hidden_size": 0}, "config: hidden_size is 0; it must be between 1 and 2^31"),
    ({"hidden_size": ...}, "hidden_size is missing"),
    ({"rms_norm_eps": "1e-6"}, "rms_norm_eps must be a number, not '1e-6'"),
    ({"rms_norm_eps": -1e-6}, "rms_norm_eps is -1e-06; it must be positive"),
    ({"rope_theta": 0}, "rope_theta is 0.0; it must be positive"),
    ({"swiglu_limit": 0}, "swiglu_limit is 0.0; it must be positive"),
    ({"routed_scaling_factor": 10**400}, "routed_scaling_factor must be a number, not 1" + "0" * 39 + "..."),
    ({"eos_token_id": [1, 129280]}, "token 129280 begins or ends a text, but there are only 129280"),
    ({"eos_token_id": "</s>"}, "eos_token_id must be an integer, not '</s>'"),
    ({"compress_ratios": "4"}, "compress_ratios must be a list, not '4'"),
    ({"compress_ratios": ...}, "compress_ratios is missing"),
    ({"compress_ratios": [0]}, "config: compress_ratios describes 1 layers, but the model has 43"),
    ({"compress_rate_csa": 2}, "compress_rates say how layer_types compress; with compress_ratios, use csa_ratio"),
    ({"layer_types": ["full_attention"]},
     "layer_types has 'full_attention'; there are: sliding_attention, compressed_sparse_attention, heavily_compressed_attention"),
    ({"layer_types": [], "compress_rates": {"heavily_compressed_attention": 4}},
     "compress_rates {'compressed_sparse_attention': 4, 'heavily_compressed_attention': 4} must be positive and differ"),
    ({"layer_types": [], "n_shared_experts": 2},
     "n_shared_experts must be 1 with layer_types: transformers makes one, whatever it says"),
    ({"mlp_layer_types": ["dense"]}, "mlp_layer_types has 'dense'; there are: hash_moe, moe"),
    ({"num_hash_layers": 44}, "num_hash_layers is 44, but there are 43 layers"),
    ({"num_hash_layers": ...}, "num_hash_layers is missing"),
    ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_scaling: rope_type is 'linear'; supported: default, yarn"),
    ({"rope_scaling": {"factor": 16}},
     "rope_scaling: factor is not supported; known: partial_rotary_factor, rope_theta, rope_type, truncate, type"),
    ({"rope_scaling": {"type": "yarn"}}, "rope_scaling: factor is missing"),
    ({"rope_scaling": {"type": "yarn", "factor": 0.5}}, "rope_scaling: factor is 0.5; it must be at least 1"),
    ({"rope_scaling": {"type": "yarn", "factor": 2, "beta_slow": -1}}, "rope_scaling: beta_slow is -1.0; it must be positive"),
    ({"rope_scaling": {"type": "yarn", "factor": 2, "truncate": False}}, "rope_scaling: truncate is false; supported: true"),
    ({"rope_parameters": {"rope_type": "default"}},
     "has both rope_scaling and rope_parameters; remove the one that is not meant"),
    ({"partial_rotary_factor": 0.25}, "qk_rope_head_dim is 64, but partial_rotary_factor makes it 128"),
    ({"engram": {"layer_ids": [1], "engram_vocab_size": [5, 5], "compressed_vocab_size": 9, "colour": 1}},
     "engram: colour is not supported; known: boundary_id, compressed_vocab_size, engram_vocab_size, kernel_size, layer_ids, "
     "max_ngram_size, n_embed_per_ngram, n_head_per_ngram, pad_id, seed, zero"),
    ({"engram": {"layer_ids": [1], "engram_vocab_size": [5, 5]}}, "engram: compressed_vocab_size is missing"),
    ({"engram": {"layer_ids": [77], "engram_vocab_size": [5, 5], "compressed_vocab_size": 9}},
     "config: engram: layer_ids names a layer that is not there"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "line"), REFUSED, ids=[line[:40] for _, line in REFUSED])
def test_refused(tmp_path: Path, change: dict[str, Any], line: str) -> None:
    values = {key: value for key, value in {**FLASH, **change}.items() if value is not ...}
    with pytest.raises(BadInput) as caught:
        read(tmp_path, values)
    assert str(caught.value) == f"{tmp_path}/config.json: {line}"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[]", "is not a JSON object"),
        ("{", "is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ('{"a": 1, "a": 2}', "is not JSON: a key is repeated"),
        ('{"a": NaN}', "is not JSON: NaN is not a number"),
        (
            "[" * 200000,
            "is not JSON: maximum recursion depth exceeded while decoding a JSON array from a unicode string",
        ),
    ],
)
def test_not_json(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(BadInput) as caught:
        read(tmp_path, text)
    assert str(caught.value) == f"{tmp_path}/config.json: {line}"


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        read_config(tmp_path)
    assert str(caught.value) == f"{tmp_path}/config.json: cannot be read: No such file or directory"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["main", "compress", "type", "factor"]), inner)
    ),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(sorted([*FLASH, "layer_types", "rope_parameters", "engram"])), JSON, max_size=3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_is_refused_in_one_line(tmp_path: Path, damage: dict[str, Any]) -> None:
    lines = 1
    try:
        read(tmp_path, {**FLASH, **damage})
    except BadInput as error:
        lines = len(str(error).splitlines())
    assert lines == 1
