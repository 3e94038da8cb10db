"""A stand-in for the model: modules and tensors with its names and shapes, and no mathematics."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from deepport import formats
from deepport_model.checkpoint.names import is_float32, scale_name, spell
from deepport_model.config import Config, EngramConfig

CONFIG = Config(
    vocab_size=48, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, head_dim=32, qk_rope_head_dim=8, q_lora_rank=32,
    o_groups=2, o_lora_rank=32, compress_ratios=(0, 4, 128), hash_layers=(True, False, False), n_routed_experts=4,
    num_experts_per_tok=2, moe_intermediate_size=32, index_n_heads=4, index_head_dim=16, index_topk=8, hc_mult=2,
    bos_token_id=0, eos_token_id=(1,),
)  # fmt: skip
ENGRAM = EngramConfig((1,), (97, 101), 40, n_embed_per_ngram=256, n_head_per_ngram=8)


def layer_shapes(c: Config, layer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors of one layer, without its prefix."""
    n, width, head = c.hc_mult, c.hidden_size, c.head_dim
    for part in ("attn", "ffn"):
        yield f"{part}_norm.weight", (width,)
        yield from ((f"hc_{part}_fn", ((2 + n) * n, n * width)), (f"hc_{part}_base", ((2 + n) * n,)))
        yield f"hc_{part}_scale", (3,)
    yield "attn.wq_a.weight", (c.q_lora_rank, width)
    yield "attn.q_norm.weight", (c.q_lora_rank,)
    yield "attn.wq_b.weight", (c.num_attention_heads * head, c.q_lora_rank)
    yield "attn.wkv.weight", (head, width)
    yield "attn.kv_norm.weight", (head,)
    yield "attn.wo_a.weight", (c.o_groups * c.o_lora_rank, c.num_attention_heads * head // c.o_groups)
    yield "attn.wo_b.weight", (width, c.o_groups * c.o_lora_rank)
    yield "attn.attn_sink", (c.num_attention_heads,)
    ratio, overlap = c.compress_ratios[layer], 1 + c.overlaps(layer)
    sizes = {"attn.compressor": head} if ratio else {}
    if c.overlaps(layer):
        sizes["attn.indexer.compressor"] = c.index_head_dim
        yield "attn.indexer.wq_b.weight", (c.index_n_heads * c.index_head_dim, c.q_lora_rank)
        yield "attn.indexer.weights_proj.weight", (c.index_n_heads, width)
    for name, size in sizes.items():
        yield from ((f"{name}.{w}.weight", (overlap * size, width)) for w in ("wkv", "wgate"))
        yield from ((f"{name}.ape", (ratio, overlap * size)), (f"{name}.norm.weight", (size,)))
    yield "ffn.gate.weight", (c.n_routed_experts, width)
    hashed = c.hash_layers[layer]
    yield (
        ("ffn.gate.tid2eid", (c.vocab_size, c.num_experts_per_tok))
        if hashed
        else ("ffn.gate.bias", (c.n_routed_experts,))
    )
    inner = c.moe_intermediate_size
    yield from (
        ("ffn.experts.w13", (c.n_routed_experts, 2 * inner, width)),
        ("ffn.experts.w2", (c.n_routed_experts, width, inner)),
    )
    yield from ((f"ffn.shared_experts.w{i}.weight", (inner, width) if i != 2 else (width, inner)) for i in (1, 2, 3))
    if c.engram and layer in c.engram.layer_ids:
        yield from (("engram.table.rows", (300, c.engram.row_width)), ("engram.wk.weight", (n * width, c.engram.width)))
        yield from (("engram.wv.weight", (width, c.engram.width)), ("engram.conv", (n * width, c.engram.kernel_size)))
        yield from ((f"engram.norm_{part}", (n, width)) for part in ("h", "k", "conv"))


def shapes(c: Config) -> dict[str, tuple[int, ...]]:
    """Every tensor of the model."""
    n, width = c.hc_mult, c.hidden_size
    found = {"embed.weight": (c.vocab_size, width), "head.weight": (c.vocab_size, width), "norm.weight": (width,)}
    found |= {"hc_head_fn": (n, n * width), "hc_head_base": (n,), "hc_head_scale": (1,)}
    found |= {"engram_token_map": (c.vocab_size,)} if c.engram else {}
    return found | {f"layers.{i}.{name}": s for i in range(c.num_hidden_layers) for name, s in layer_shapes(c, i)}


def standin(c: Config = CONFIG, device: str = "meta", leave_out: tuple[str, ...] = ()) -> nn.Module:
    """The model's tensors in modules; float32, on `device`."""
    root = nn.Module()
    for name, shape in shapes(c).items():
        if name in leave_out:
            continue
        module = root
        *path, leaf = name.split(".")
        for step in path:
            if step not in module._modules:
                module.add_module(step, nn.Module())
            module = module.get_submodule(step)
        if leaf in ("tid2eid", "engram_token_map"):
            module.register_buffer(leaf, torch.zeros(shape, dtype=torch.int64, device=device))
            continue
        module.register_parameter(leaf, nn.Parameter(torch.zeros(shape, device=device)))
        if scale_name(name) and len(shape) > 1 and not name.endswith("gate.weight"):
            module.format = formats.PLAIN  # type: ignore[assignment]
    return root


def filled(c: Config = CONFIG, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """A stand-in with random values."""
    g = torch.Generator().manual_seed(seed)
    model = standin(c, "cpu")
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name.endswith("tid2eid"):
            chosen = [
                torch.randperm(c.n_routed_experts, generator=g)[: tensor.shape[1]] for _ in range(tensor.shape[0])
            ]
            tensor.copy_(torch.stack(chosen))
        elif not tensor.is_floating_point():
            tensor.copy_(torch.randint(0, 40, tensor.shape, generator=g))
        else:
            values = torch.randn(tensor.shape, generator=g)
            tensor.data = values if is_float32(name) else values.to(dtype)
    return model


def quantise(model: nn.Module, chosen: Callable[[str], str | None], power_of_two: bool = True) -> nn.Module:
    """Encode the weights whose module's name has a format by `chosen`."""
    for name, weight in model.state_dict().items():
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        if not hasattr(module, "format") or (format := chosen(owner)) is None:
            continue
        data, scale = formats.encode(weight.float(), format, power_of_two)
        setattr(module, leaf, nn.Parameter(data, requires_grad=False))
        setattr(module, f"{scale_name(name)}".rpartition(".")[2], nn.Parameter(scale, requires_grad=False))
        module.format = format  # type: ignore[assignment]
    return model


def write(model: nn.Module, directory: Path, naming: Any = "deepseek", **changes: Any) -> dict[str, Tensor]:
    """The model as somebody else would write it, by the safetensors library; `changes` replace, add or (None) drop tensors."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: where.view(tensor).clone()
        for target, tensor in model.state_dict().items()
        for name, where in spell(target, naming, tensor.shape[0] if tensor.ndim else 0)
    }
    tensors |= changes.get("tensors", {})
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(changes.get("config", {})))
    return tensors


def same(a: nn.Module, b: nn.Module) -> None:
    """Two models have the same tensors, bit for bit, and formats."""
    left, right = a.state_dict(), b.state_dict()
    assert set(left) == set(right)
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype, name
        assert tensor.shape == right[name].shape, name
        assert torch.equal(tensor.contiguous().view(torch.uint8), right[name].contiguous().view(torch.uint8)), name
    for name, module in a.named_modules():
        assert getattr(module, "format", None) == getattr(b.get_submodule(name), "format", None), name


class Helpers:
    config, engram = CONFIG, ENGRAM
    shapes, standin, filled = staticmethod(shapes), staticmethod(standin), staticmethod(filled)
    quantise, write, same = staticmethod(quantise), staticmethod(write), staticmethod(same)


@pytest.fixture
def standins() -> type[Helpers]:
    return Helpers
