"""DeepSeek-V4 attention: a window, compressed entries (CSA with an indexer, HCA without), sinks, grouped output."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deepport import ops
from deepport_model.cache import Batch, Compressed, LayerCache, recording
from deepport_model.config import Config
from deepport_model.modules import BlockLinear, Linear, RMSNorm
from deepport_model.rope import inverse_frequencies

Angles = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Step:
    """What all layers of one forward pass share: its tokens, their page tables, and rotary angles by kind of layer."""

    batch: Batch
    window_table: Tensor
    tables: dict[int, Tensor]
    plain: Angles
    compressed: Angles


class Compressor(nn.Module):
    """Turns every `ratio` tokens into one cache entry (sections 2.3.1 and 2.3.2); the indexer has one of its own."""

    def __init__(self, config: Config, width: int, ratio: int, overlap: bool) -> None:
        super().__init__()
        channels = width * (1 + overlap)
        self.wkv = Linear(config.hidden_size, channels)
        self.wgate = Linear(config.hidden_size, channels)
        self.ape = nn.Parameter(torch.zeros(ratio, channels))
        self.norm = RMSNorm(width, config.rms_norm_eps)
        self.register_buffer("frequencies", inverse_frequencies(config, compressed=True), persistent=False)

    frequencies: Tensor

    def forward(self, x: Tensor, step: Step, to: Compressed) -> None:
        """Append the entries that these tokens complete."""
        entries, ids, cu_entries = self._compress(self.wkv(x), self.wgate(x), step.batch, to)
        cos, sin = ops.rotary_angles(ids, self.frequencies, to.ratio)
        entries = ops.rotary(self.norm(entries), cos, sin)
        to.pages.write(step.tables[to.ratio], entries, ids, cu_entries)

    def _compress(self, kv: Tensor, gate: Tensor, batch: Batch, to: Compressed) -> tuple[Tensor, Tensor, Tensor]:
        where = (batch.slots, batch.positions, batch.cu_seqlens, to.ratio, to.overlap)
        if recording(kv, self.ape):
            entries, ids, cu_entries, to.state = ops.compress_kv(kv, gate, self.ape, to.state, *where)
            return entries, ids, cu_entries
        return ops.compress_kv_(kv, gate, self.ape, to.state, *where)


class Indexer(nn.Module):
    """Scores compressed entries cheaply and keeps the best `index_topk` for each token (section 2.3.1)."""

    def __init__(self, config: Config, ratio: int) -> None:
        super().__init__()
        self.heads, self.size, self.topk = config.index_n_heads, config.index_head_dim, config.index_topk
        self.wq_b = Linear(config.q_lora_rank, self.heads * self.size)
        self.weights_proj = Linear(config.hidden_size, self.heads, wide=True)
        self.compressor = Compressor(config, self.size, ratio, overlap=True)

    def forward(self, x: Tensor, q_latent: Tensor, step: Step, keys: Compressed) -> Tensor:
        self.compressor(x, step, keys)
        q = ops.rotary(self.wq_b(q_latent).unflatten(-1, (self.heads, self.size)), *step.compressed)
        weights = self.weights_proj(x) * (self.heads * self.size) ** -0.5
        batch, table = step.batch, step.tables[keys.ratio]
        return ops.index_topk(
            q, weights, keys.pages.data, table, batch.positions, batch.cu_seqlens, keys.ratio, self.topk
        )


class Attention(nn.Module):
    """Shared-KV multi-query attention: one key head, whose keys are the values too."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        heads, size, ratio = config.num_attention_heads, config.head_dim, config.compress_ratios[layer]
        self.heads, self.size, self.groups = heads, size, config.o_groups
        self.window, self.eps = config.sliding_window, config.rms_norm_eps
        self.wq_a = Linear(config.hidden_size, config.q_lora_rank)
        self.q_norm = RMSNorm(config.q_lora_rank, self.eps)
        self.wq_b = Linear(config.q_lora_rank, heads * size)
        self.wkv = Linear(config.hidden_size, size)
        self.kv_norm = RMSNorm(size, self.eps)
        self.wo_a = BlockLinear(self.groups, heads * size // self.groups, config.o_lora_rank)
        self.wo_b = Linear(self.groups * config.o_lora_rank, config.hidden_size)
        self.attn_sink = nn.Parameter(torch.zeros(heads))
        overlap = config.overlaps(layer)
        self.compressor = Compressor(config, size, ratio, overlap) if ratio else None
        self.indexer = Indexer(config, ratio) if overlap else None

    def forward(self, x: Tensor, step: Step, cache: LayerCache) -> Tensor:
        """x [T, C] -> [T, C]; writes these tokens' keys to the cache first."""
        cos, sin = step.plain if self.compressor is None else step.compressed
        q_latent = self.q_norm(self.wq_a(x))
        q = ops.rms_norm(self.wq_b(q_latent).unflatten(-1, (self.heads, self.size)), None, self.eps)
        kv = ops.rotary(self.kv_norm(self.wkv(x)), cos, sin)
        cache.window.write(step.window_table, kv, step.batch.positions, step.batch.cu_seqlens)
        o = self._attend(ops.rotary(q, cos, sin), x, q_latent, step, cache)
        # The values were rotated as keys: turning the output back leaves a function of relative positions.
        o = ops.rotary(o, cos, sin, inverse=True)
        y: Tensor = self.wo_b(self.wo_a(o.flatten(1).unflatten(1, (self.groups, -1))).flatten(1))
        return y

    def _attend(self, q: Tensor, x: Tensor, q_latent: Tensor, step: Step, cache: LayerCache) -> Tensor:
        pages, table, indices, ratio = None, None, None, 0
        if self.compressor is not None and cache.entries is not None:
            self.compressor(x, step, cache.entries)
            ratio = cache.entries.ratio
            pages, table = cache.entries.pages.data, step.tables[ratio]
            if self.indexer is not None and cache.keys is not None:
                indices = self.indexer(x, q_latent, step, cache.keys)
        batch, scale = step.batch, self.size**-0.5
        o, _ = ops.sparse_attention(
            q, cache.window.data, step.window_table, pages, table, indices, self.attn_sink,
            batch.positions, batch.cu_seqlens, scale, self.window, ratio,
        )  # fmt: skip
        return o
