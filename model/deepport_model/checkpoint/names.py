"""Names of tensors: DeepSeek's originals, transformers' modules, and the hybrid that its `save_pretrained` writes.

The model's own names are DeepSeek's, but that a layer's experts are stacked. One table pairs them with transformers' module
names; a prefix `model.` means nothing. The hybrid is DeepSeek's names under that prefix with two exceptions: the embedding
and the head's mixing keep their module names (which the table has), and `kv_norm` loses its first half. It loses that among
module names too, where transformers saves a model that it has loaded under them.
Source: transformers 5.23, `conversion_mapping.py`, deepseek_v4.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Naming = Literal["deepseek", "transformers"]

_MODULES = {
    "embed": "embed_tokens",
    "head": "lm_head",
    "norm": "norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn.wq_a": "self_attn.q_a_proj",
    "attn.q_norm": "self_attn.q_a_norm",
    "attn.wq_b": "self_attn.q_b_proj",
    "attn.wkv": "self_attn.kv_proj",
    "attn.kv_norm": "self_attn.kv_norm",
    "attn.wo_a": "self_attn.o_a_proj",
    "attn.wo_b": "self_attn.o_b_proj",
    "attn.compressor.wkv": "self_attn.compressor.kv_proj",
    "attn.compressor.wgate": "self_attn.compressor.gate_proj",
    "attn.compressor.norm": "self_attn.compressor.kv_norm",
    "attn.indexer.wq_b": "self_attn.compressor.indexer.q_b_proj",
    "attn.indexer.weights_proj": "self_attn.compressor.indexer.scorer.weights_proj",
    "attn.indexer.compressor.wkv": "self_attn.compressor.indexer.kv_proj",
    "attn.indexer.compressor.wgate": "self_attn.compressor.indexer.gate_proj",
    "attn.indexer.compressor.norm": "self_attn.compressor.indexer.kv_norm",
    "ffn.gate": "mlp.gate",
    "ffn.shared_experts.w1": "mlp.shared_experts.gate_proj",
    "ffn.shared_experts.w2": "mlp.shared_experts.down_proj",
    "ffn.shared_experts.w3": "mlp.shared_experts.up_proj",
    "engram.wk": "engram.wk",
    "engram.wv": "engram.wv",
}
"""Modules with a `weight`, which may have a companion scale: `scale`, in transformers `weight_scale_inv`."""

_TENSORS = {
    "hc_head_fn": "hc_head.hc_fn",
    "hc_head_base": "hc_head.hc_base",
    "hc_head_scale": "hc_head.hc_scale",
    "hc_attn_fn": "attn_hc.fn",
    "hc_attn_base": "attn_hc.base",
    "hc_attn_scale": "attn_hc.scale",
    "hc_ffn_fn": "ffn_hc.fn",
    "hc_ffn_base": "ffn_hc.base",
    "hc_ffn_scale": "ffn_hc.scale",
    "attn.attn_sink": "self_attn.sinks",
    "attn.compressor.ape": "self_attn.compressor.position_bias",
    "attn.indexer.compressor.ape": "self_attn.compressor.indexer.position_bias",
    "ffn.gate.bias": "mlp.gate.e_score_correction_bias",
    "ffn.gate.tid2eid": "mlp.gate.tid2eid",
    "ffn.experts.w13": "mlp.experts.gate_up_proj",
    "ffn.experts.w13_scale": "mlp.experts.gate_up_proj_scale_inv",
    "ffn.experts.w2": "mlp.experts.down_proj",
    "ffn.experts.w2_scale": "mlp.experts.down_proj_scale_inv",
}
"""Tensors that are not called `weight`. Engram's, unknown to transformers, have one name in every naming."""

_TO_TRANSFORMERS = {
    **_TENSORS,
    **{f"{ours}.weight": f"{theirs}.weight" for ours, theirs in _MODULES.items()},
    **{f"{ours}.scale": f"{theirs}.weight_scale_inv" for ours, theirs in _MODULES.items()},
}

_NUMBER = "(0|[1-9][0-9]{0,8})"
_LAYER = re.compile(rf"(layers\.{_NUMBER}\.|)(.+)", re.DOTALL)
_EXPERT = re.compile(rf"ffn\.experts\.{_NUMBER}\.(w[123])\.(weight|scale)")
_STACKED = re.compile(r"(.*\.experts\.)(w13|w2)(_scale)?")


@dataclass(frozen=True)
class Place:
    """Where a file's tensor goes: the whole of the model's tensor `target`, or `part` (w1, w2, w3) of one `expert`."""

    target: str
    expert: int | None = None
    part: str = ""

    def view(self, stacked: Tensor) -> Tensor:
        """This place in the model's tensor; of w13 [E, 2I, ...], w1 is the first half of the rows, w3 the second."""
        if self.expert is None:
            return stacked
        matrix = stacked[self.expert]
        half = matrix.shape[0] // 2
        return {"w1": matrix[:half], "w3": matrix[half:], "w2": matrix}[self.part]


def _one_scale(name: str) -> str:
    """transformers calls a module's scale `weight_scale_inv`, in its hybrid naming too."""
    return f"{name.removesuffix('weight_scale_inv')}scale" if name.endswith(".weight_scale_inv") else name


_FROM_TRANSFORMERS = {_one_scale(theirs): ours for ours, theirs in _TO_TRANSFORMERS.items()}
_LOST_HALF = {
    theirs.replace("kv_norm", "norm"): ours for theirs, ours in _FROM_TRANSFORMERS.items() if "kv_norm" in theirs
}
_FROM_OTHERS = {**_FROM_TRANSFORMERS, **_LOST_HALF, "attn.norm.weight": "attn.kv_norm.weight"}


def place(name: str) -> Place:
    """Where the tensor that a file, in any naming, calls `name` goes; a name that nobody knows is its own target."""
    split = _LAYER.fullmatch(name.removeprefix("model."))
    if split is None:
        return Place(name)
    layer, rest = split[1], _one_scale(split[3])
    if expert := _EXPERT.fullmatch(rest):
        stack = "w2" if expert[2] == "w2" else "w13"
        suffix = "_scale" if expert[3] == "scale" else ""
        return Place(f"{layer}ffn.experts.{stack}{suffix}", int(expert[1]), expert[2])
    return Place(layer + _FROM_OTHERS.get(rest, rest))


def is_prediction(name: str) -> bool:
    """Whether a tensor belongs to the multi-token prediction layers, which this model does not have."""
    return name.removeprefix("model.").startswith("mtp.")


def spell(target: str, naming: Naming, experts: int) -> Iterator[tuple[str, Place]]:
    """The tensors that hold the model's tensor `target` in a file: name and place. DeepSeek does not stack its `experts`."""
    stacked = _STACKED.fullmatch(target)
    if stacked is None or naming == "transformers":
        yield _spell_whole(target, naming), Place(target)
        return
    for expert in range(experts):
        for part in ("w1", "w3") if stacked[2] == "w13" else ("w2",):
            leaf = "scale" if stacked[3] else "weight"
            yield f"{stacked[1]}{expert}.{part}.{leaf}", Place(target, expert, part)


def _spell_whole(target: str, naming: Naming) -> str:
    split = _LAYER.fullmatch(target)
    if naming == "deepseek" or split is None:
        return target
    name = split[1] + _TO_TRANSFORMERS.get(split[3], split[3])
    return name if name.startswith("lm_head.") else f"model.{name}"


def scale_name(target: str) -> str | None:
    """The name of the scale that a quantised `target` has beside it; None for what is never quantised."""
    owner, _, leaf = target.rpartition(".")
    if leaf in ("weight", "rows"):
        return f"{owner}.scale"
    return f"{target}_scale" if leaf in ("w13", "w2") else None


_FLOAT32 = re.compile(
    r".*norm\.weight|.*\.(attn_sink|ape|norm_h|norm_k|norm_conv)|(.*\.)?hc_(head|attn|ffn)_(fn|base|scale)|.*\.gate\.bias"
)


def is_float32(target: str) -> bool:
    """Whether a tensor is kept in float32 whatever the model's dtype: norms, sinks, biases, the streams' mixing."""
    return _FLOAT32.fullmatch(target) is not None
