"""config.json in both of its spellings.

DeepSeek's says `compress_ratios` (its tail may describe prediction layers), `num_hash_layers`, `qk_rope_head_dim` and
`rope_scaling`; that of transformers 5.23 says `layer_types` with `compress_rates`, `mlp_layer_types`,
`partial_rotary_factor` and `rope_parameters` {main, compress}. Each key is read as transformers' `DeepseekV4Config` reads
it; where that falls back on the schedule or the sizes of V4-Flash, here they are missing. Engram is our own object
`engram`. What the model does not compute is refused, never ignored.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, get_type_hints

from deepport.errors import BadInput
from deepport_model.checkpoint import rope
from deepport_model.checkpoint.fields import Fields
from deepport_model.checkpoint.names import Naming
from deepport_model.checkpoint.text import read_object
from deepport_model.config import Config, EngramConfig

CONFIG = "config.json"
ARCHITECTURE = "deepseek_v4"
_WINDOW, _CSA, _HCA = "sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"
_DEFAULT_RATES = {_CSA: 4, _HCA: 128}
_DERIVED = {
    "qk_rope_head_dim",
    "compress_ratios",
    "hash_layers",
    "csa_ratio",
    "rope_theta",
    "compress_rope_theta",
    "yarn",
    "eos_token_id",
    "engram",
}
_SAME = tuple(field for field in fields(Config) if field.name not in _DERIVED)
"""Fields that both spellings have under our name."""

_FIXED: dict[str, Any] = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "norm_topk_prob": True,
    "topk_method": "noaux_tc",
    "num_key_value_heads": 1,
    "attention_dropout": 0.0,
    "router_jitter_noise": 0.0,
    "output_router_logits": False,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 0,
    "moe_layer_freq": 1,
}
"""What the architecture leaves open and the model does not: any other value would be computed wrongly."""

_POSITIVE = (
    "rms_norm_eps",
    "hc_eps",
    "rope_theta",
    "compress_rope_theta",
    "routed_scaling_factor",
    "swiglu_limit",
    "initializer_range",
    "csa_ratio",
)


def read_config(directory: str | Path) -> Config:
    """The configuration in `directory`; BadInput for what is damaged, absurd, or not the architecture that is supported."""
    path = Path(directory) / CONFIG
    source = Fields(read_object(path), str(path))
    _check_architecture(source)
    hints = get_type_hints(Config)
    values = {f.name: source.get(f.name, hints[f.name], ... if f.default is MISSING else f.default) for f in _SAME}
    ratios, csa_ratio = _read_ratios(source, values["num_hidden_layers"])
    try:
        config = Config(
            **values,
            **rope.read(source),
            compress_ratios=ratios,
            csa_ratio=csa_ratio,
            hash_layers=_read_hash_layers(source, values["num_hidden_layers"]),
            eos_token_id=_read_eos(source),
            engram=source.child("engram").build(EngramConfig) if "engram" in source else None,
        )
    except BadInput as error:
        raise error if str(error).startswith(str(path)) else BadInput(f"{path}: {error}") from None
    _check_values(source, config)
    return config


def _check_architecture(source: Fields) -> None:
    found = source.get("model_type", str | None, None)
    if found != ARCHITECTURE:
        raise BadInput(f"{source.where}: model_type is {found!r}; supported: {ARCHITECTURE}")
    for key, supported in _FIXED.items():
        if key in source and source.values[key] != supported:
            raise BadInput(f"{source.where}: {key} is {source.values[key]!r}; supported: {json.dumps(supported)}")
    method = source.child("quantization_config").get("quant_method", str | None, None)
    if method not in (None, "fp8"):
        raise BadInput(f"{source.where}: quantization_config: quant_method is {method!r}; supported: fp8")
    if "layer_types" in source and source.get("n_shared_experts", int, 1) != 1:
        raise BadInput(
            f"{source.where}: n_shared_experts must be 1 with layer_types: transformers makes one, whatever it says"
        )


def _check_values(source: Fields, config: Config) -> None:
    for name in _POSITIVE:
        value = getattr(config, name)
        if value is not None and value <= 0:
            raise BadInput(f"{source.where}: {name} is {value}; it must be positive")
    for token in (config.bos_token_id, *config.eos_token_id):
        if token is not None and not 0 <= token < config.vocab_size:
            raise BadInput(
                f"{source.where}: token {token} begins or ends a text, but there are only {config.vocab_size}"
            )


def _read_eos(source: Fields) -> tuple[int, ...]:
    if isinstance(source.values.get("eos_token_id"), list):
        return tuple(source.get("eos_token_id", tuple[int, ...]))
    single = source.get("eos_token_id", int | None, None)
    return () if single is None else (single,)


def _read_ratios(source: Fields, layers: int) -> tuple[tuple[int, ...], int]:
    """Tokens per compressed entry of every layer, and the number of them that means CSA."""
    given = source.child("compress_rates")
    rates = {kind: given.get(kind, int, default) for kind, default in _DEFAULT_RATES.items()}
    for kind, key in ((_CSA, "compress_rate_csa"), (_HCA, "compress_rate_hca")):
        rates[kind] = source.get(key, int, rates[kind])
    if "layer_types" in source:
        if min(rates.values()) < 1 or rates[_CSA] == rates[_HCA]:
            raise BadInput(f"{source.where}: compress_rates {rates} must be positive and differ")
        kinds = _each_of(source, "layer_types", {_WINDOW: 0, **rates})[:layers]
        return kinds, rates[_CSA]
    ratios = source.get("compress_ratios", tuple[int, ...])[:layers]
    if rates != _DEFAULT_RATES:
        raise BadInput(
            f"{source.where}: compress_rates say how layer_types compress; with compress_ratios, use csa_ratio"
        )
    return ratios, source.get("csa_ratio", int, _DEFAULT_RATES[_CSA])


def _read_hash_layers(source: Fields, layers: int) -> tuple[bool, ...]:
    if "mlp_layer_types" in source:
        return _each_of(source, "mlp_layer_types", {"hash_moe": True, "moe": False})[:layers]
    hashed = source.get("num_hash_layers", int)
    if not 0 <= hashed <= layers:
        raise BadInput(f"{source.where}: num_hash_layers is {hashed}, but there are {layers} layers")
    return tuple(layer < hashed for layer in range(layers))


def _each_of(source: Fields, key: str, meanings: dict[str, Any]) -> tuple[Any, ...]:
    """The meaning of every word in a list."""
    words = source.get(key, tuple[str, ...])
    if unknown := [word for word in words if word not in meanings]:
        raise BadInput(f"{source.where}: {key} has {unknown[0]!r}; there are: {', '.join(meanings)}")
    return tuple(meanings[word] for word in words)


def read_block_hint(directory: str | Path) -> tuple[int, int] | tuple[None, None]:
    """Rows and columns under one FP8 scale, where config.json states them: shapes alone do not always tell."""
    path = Path(directory) / CONFIG
    if not path.exists():
        return None, None
    quantization = Fields(read_object(path), str(path)).child("quantization_config")
    block = quantization.get("weight_block_size", tuple[int, ...] | None, None)
    if block is None:
        return None, None
    if len(block) != 2 or min(block) < 1:
        raise BadInput(f"{quantization.where}: weight_block_size must be two positive integers, not {list(block)}")
    return block[0], block[1]


def write_config(
    config: Config, directory: str | Path, spelling: Naming = "deepseek", more: dict[str, Any] | None = None
) -> None:
    """Write config.json; `more` keys describe the files beside it. BadInput where the spelling cannot say what is meant."""
    eos: tuple[int, ...] | int | None = config.eos_token_id
    if len(config.eos_token_id) < 2:
        eos = config.eos_token_id[0] if config.eos_token_id else None
    values = {
        "model_type": ARCHITECTURE,
        "architectures": ["DeepseekV4ForCausalLM"],
        **{field.name: getattr(config, field.name) for field in _SAME},
        **_FIXED,
        "eos_token_id": eos,
        **rope.write(config, spelling),
        **(_deepseek_layers(config) if spelling == "deepseek" else _transformers_layers(config)),
        **({} if config.engram is None else {"engram": asdict(config.engram)}),
        **(more or {}),
    }
    text = json.dumps(values, indent=2, sort_keys=True, allow_nan=False)
    (Path(directory) / CONFIG).write_text(f"{text}\n")


def _deepseek_layers(config: Config) -> dict[str, Any]:
    hashed = sum(config.hash_layers)
    if config.hash_layers != tuple(layer < hashed for layer in range(config.num_hidden_layers)):
        raise BadInput(
            "config: hash_layers are not the first layers, which num_hash_layers cannot say; use transformers' spelling"
        )
    ratio = {} if config.csa_ratio == _DEFAULT_RATES[_CSA] else {"csa_ratio": config.csa_ratio}
    return {"compress_ratios": config.compress_ratios, "num_hash_layers": hashed, **ratio}


def _transformers_layers(config: Config) -> dict[str, Any]:
    dense = {ratio for ratio in config.compress_ratios if ratio not in (0, config.csa_ratio)} or {_DEFAULT_RATES[_HCA]}
    if len(dense) > 1 or config.n_shared_experts != 1 or config.csa_ratio in (0, *dense):
        raise BadInput(
            "config: transformers' spelling has one ratio without overlap, and one shared expert; use DeepSeek's spelling"
        )
    kinds = {0: _WINDOW, config.csa_ratio: _CSA}
    return {
        "layer_types": [kinds.get(ratio, _HCA) for ratio in config.compress_ratios],
        "compress_rates": {_CSA: config.csa_ratio, _HCA: dense.pop()},
        "mlp_layer_types": ["hash_moe" if hashed else "moe" for hashed in config.hash_layers],
    }
