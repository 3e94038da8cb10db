"""A model's weights as a GGUF file of architecture `deepseek4`, which llama.cpp reads: the same values, in formats that it has.

| here | there |
|---|---|
| plain float32, bfloat16 | F32, BF16 |
| `mxfp4` | MXFP4: the same codes and scales in its order |
| `int8:row` | Q8_0: the same integers; the row's scale, rounded to float16, stands in every block of 32 |
| `fp8_e4m3`, UE8M0 scales | BF16: exact |

Norms, biases, sinks, the streams' mixing and the router are float32. Source of names and keys: llama.cpp, `llama-arch.cpp` and
`models/deepseek4.cpp`, as of llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepport import formats
from deepport.errors import BadInput
from deepport_model.checkpoint.names import scale_name
from deepport_model.config import Config
from deepport_model.transformer import Transformer

ARCHITECTURE = "deepseek4"
_SQRTSOFTPLUS = 4
"""llama.cpp's number of the scoring function."""

_WHOLE = {"embed": "token_embd", "norm": "output_norm", "head": "output", "hc_head_": "output_hc_"}
_LAYER = {
    "attn_norm.weight": "attn_norm.weight",
    "attn.attn_sink": "attn_sinks.weight",
    "attn.wq_a.weight": "attn_q_a.weight",
    "attn.q_norm.weight": "attn_q_a_norm.weight",
    "attn.wq_b.weight": "attn_q_b.weight",
    "attn.wkv.weight": "attn_kv.weight",
    "attn.kv_norm.weight": "attn_kv_a_norm.weight",
    "attn.wo_a.weight": "attn_output_a.weight",
    "attn.wo_b.weight": "attn_output_b.weight",
    "attn.compressor.wkv.weight": "attn_compressor_kv.weight",
    "attn.compressor.wgate.weight": "attn_compressor_gate.weight",
    "attn.compressor.ape": "attn_compressor_ape.weight",
    "attn.compressor.norm.weight": "attn_compressor_norm.weight",
    "attn.indexer.wq_b.weight": "indexer.attn_q_b.weight",
    "attn.indexer.weights_proj.weight": "indexer.proj.weight",
    "attn.indexer.compressor.wkv.weight": "indexer_compressor_kv.weight",
    "attn.indexer.compressor.wgate.weight": "indexer_compressor_gate.weight",
    "attn.indexer.compressor.ape": "indexer_compressor_ape.weight",
    "attn.indexer.compressor.norm.weight": "indexer_compressor_norm.weight",
    "ffn_norm.weight": "ffn_norm.weight",
    "ffn.gate.weight": "ffn_gate_inp.weight",
    "ffn.gate.bias": "exp_probs_b.bias",
    "ffn.gate.tid2eid": "ffn_gate_tid2eid.weight",
    "ffn.experts.w2": "ffn_down_exps.weight",
    "ffn.shared_experts.w1.weight": "ffn_gate_shexp.weight",
    "ffn.shared_experts.w2.weight": "ffn_down_shexp.weight",
    "ffn.shared_experts.w3.weight": "ffn_up_shexp.weight",
}
_GROUPED = "attn.wo_a.weight"
"""Is BF16 where it is quantised: llama.cpp's AMX buffers take a Q8_0 weight, and then no product by groups."""

_STREAMS = re.compile(r"hc_(attn|ffn)_(fn|base|scale)")


def write(model: Transformer, path: Path) -> None:
    """Write a model; BadInput where llama.cpp's architecture has no place for what it is, or the package `gguf` is missing."""
    try:
        from gguf import GGUFWriter
    except ImportError:
        raise BadInput("writing GGUF needs the package gguf: pip install 'deepport[bench]'") from None
    _check(model.config)
    writer = GGUFWriter(path, ARCHITECTURE)
    _write_keys(writer, model.config)
    for name, data, kind in _tensors(model):
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _check(c: Config) -> None:
    rules = (
        (c.engram is None, "it has no Engram"),
        (set(c.compress_ratios) <= {0, 4, 128} and c.csa_ratio == 4, "it compresses 4 or 128 tokens to one"),
        (c.scoring_func == "sqrtsoftplus", "it scores experts by sqrtsoftplus"),
        (c.swiglu_limit is not None, "it clamps the experts' activations"),
        (
            c.hash_layers == tuple(sorted(c.hash_layers, reverse=True)),
            "its first layers are those that route by token id",
        ),
    )
    for holds, what in rules:
        if not holds:
            raise BadInput(f"this model is none that llama.cpp's {ARCHITECTURE} can be: {what}")


def _write_keys(writer: Any, c: Config) -> None:
    a, layers = ARCHITECTURE, c.num_hidden_layers
    integers = {
        "vocab_size": c.vocab_size, "context_length": c.max_position_embeddings, "embedding_length": c.hidden_size,
        "embedding_length_out": c.hidden_size * c.hc_mult, "block_count": layers,
        "feed_forward_length": c.moe_intermediate_size, "attention.head_count": c.num_attention_heads,
        "attention.head_count_kv": 1, "attention.key_length": c.head_dim, "attention.value_length": c.head_dim,
        "rope.dimension_count": c.qk_rope_head_dim, "attention.q_lora_rank": c.q_lora_rank,
        "attention.sliding_window": c.sliding_window, "expert_count": c.n_routed_experts,
        "expert_used_count": c.num_experts_per_tok, "expert_feed_forward_length": c.moe_intermediate_size,
        "expert_shared_count": c.n_shared_experts, "expert_gating_func": _SQRTSOFTPLUS,
        "attention.indexer.head_count": c.index_n_heads, "attention.indexer.key_length": c.index_head_dim,
        "attention.indexer.top_k": c.index_topk, "attention.output_group_count": c.o_groups,
        "attention.output_lora_rank": c.o_lora_rank, "hyper_connection.count": c.hc_mult,
        "hyper_connection.sinkhorn_iterations": c.hc_sinkhorn_iters, "hash_layer_count": sum(c.hash_layers),
    }  # fmt: skip
    numbers = {
        "attention.layer_norm_rms_epsilon": c.rms_norm_eps, "expert_weights_scale": c.routed_scaling_factor,
        "attention.compress_rope_freq_base": c.compress_rope_theta, "rope.freq_base": c.rope_theta,
        "hyper_connection.epsilon": c.hc_eps,
    }  # fmt: skip
    if c.yarn is not None:
        integers["rope.scaling.original_context_length"] = c.yarn.original_max_position_embeddings
        numbers |= {"rope.scaling.factor": c.yarn.factor, "rope.scaling.yarn_beta_fast": c.yarn.beta_fast}
        numbers["rope.scaling.yarn_beta_slow"] = c.yarn.beta_slow
        writer.add_string(f"{a}.rope.scaling.type", "yarn")
    for key, integer in integers.items():
        writer.add_uint32(f"{a}.{key}", integer)
    for key, number in numbers.items():
        writer.add_float32(f"{a}.{key}", number)
    writer.add_bool(f"{a}.expert_weights_norm", True)
    writer.add_array(f"{a}.attention.compress_ratios", list(c.compress_ratios))
    for key in ("swiglu_clamp_exp", "swiglu_clamp_shexp"):
        writer.add_array(f"{a}.{key}", [float(c.swiglu_limit or 0)] * layers)
    writer.add_string("tokenizer.ggml.model", "none")


def _tensors(model: Transformer) -> Iterator[tuple[str, Any, Any]]:
    """Name, bytes or numbers, and GGML's type (None where the numbers tell) of every tensor."""
    state = model.state_dict()
    scales = {scale_name(name) for name in state}
    for name, tensor in state.items():
        if name in scales:
            continue
        owner = name.rpartition(".")[0]
        format = getattr(model.get_submodule(owner), "format", formats.PLAIN)
        scale = state.get(scale_name(name) or "")
        if name.endswith("experts.w13"):
            halves = zip(tensor.chunk(2, 1), (None, None) if scale is None else scale.chunk(2, 1), strict=True)
            for part, (data, its) in zip(("gate", "up"), halves, strict=True):
                yield f"{_prefix(name)}ffn_{part}_exps.weight", *encoded(data, its, format, keep=True)
        else:
            keep = tensor.dim() > 1 and not name.endswith(("gate.weight", ".ape", "_fn"))
            if name.endswith(_GROUPED) and scale is not None:
                tensor, scale, format = formats.decode(tensor, scale, format, torch.bfloat16), None, formats.PLAIN
            yield spelled(name), *encoded(tensor, scale, format, keep)


def _prefix(name: str) -> str:
    return f"blk.{name.split('.')[1]}."


def spelled(name: str) -> str:
    """llama.cpp's name of one of our tensors; KeyError for what it has none for."""
    if not name.startswith("layers."):
        own = next(ours for ours in _WHOLE if name.startswith(ours))
        return f"{_WHOLE[own]}{name.removeprefix(own).removesuffix('.weight')}.weight"
    rest = name.split(".", 2)[2]
    return _prefix(name) + (f"{rest}.weight" if _STREAMS.fullmatch(rest) else _LAYER[rest])


def encoded(tensor: Tensor, scale: Tensor | None, format: str, keep: bool) -> tuple[Any, Any]:
    """As the writer takes it. `keep`: a plain tensor in its own dtype, else in float32."""
    from gguf import GGMLQuantizationType as Type

    if format == "mxfp4" and scale is not None:
        return _mxfp4(tensor, scale), Type.MXFP4
    if format == "int8:row" and scale is not None:
        return _q8_0(tensor, scale), Type.Q8_0
    if format != formats.PLAIN:
        tensor = formats.decode(tensor, scale, format, torch.bfloat16)
    if not tensor.is_floating_point():
        return tensor.to(torch.int32).numpy(), None
    if keep and tensor.dtype == torch.bfloat16:
        return _raw(tensor), Type.BF16
    return tensor.float().contiguous().numpy(), None


def _raw(tensor: Tensor) -> Any:
    return tensor.contiguous().view(torch.uint8).numpy()


def _mxfp4(data: Tensor, scale: Tensor) -> Any:
    """Blocks of 32: the scale's byte, then 16 bytes whose low halves are the first 16 values and whose high ones the others."""
    codes = data.view(torch.uint8)
    values = torch.stack((codes & 15, codes >> 4), -1).flatten(-2).unflatten(-1, (-1, 32))
    packed = values[..., :16] | (values[..., 16:] << 4)
    return torch.cat((scale.view(torch.uint8)[..., None], packed), -1).flatten(-2).numpy()


def _q8_0(data: Tensor, scale: Tensor) -> Any:
    """Blocks of 32: the scale in float16, then 32 integers."""
    blocks = data.contiguous().view(torch.uint8).unflatten(-1, (-1, 32))
    half = scale.to(torch.float16)
    if bool((half.float() < np.finfo(np.float16).tiny).any()):
        raise BadInput("int8:row: a scale is too small for Q8_0's float16")
    scales = half.view(torch.uint8).unflatten(-1, (1, 2)).expand(*blocks.shape[:-1], 2)
    return torch.cat((scales, blocks), -1).flatten(-2).contiguous().numpy()
