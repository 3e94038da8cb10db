"""The whole model: embedding, layers over residual streams, head."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from deepport import ops
from deepport.errors import BadInput
from deepport.graph import Repeated
from deepport.table import Ticket
from deepport_model.attention import Attention, Step
from deepport_model.cache import Batch, Cache, LayerCache
from deepport_model.checkpoint.names import is_float32
from deepport_model.config import Config
from deepport_model.engram import Engram, EngramHash, EngramTable
from deepport_model.engram_tokens import table_rows
from deepport_model.modules import Linear, RMSNorm
from deepport_model.moe import MoE
from deepport_model.rope import inverse_frequencies

Logits = Literal["all", "last"]

CHUNK = 512
"""New tokens in one step of a prefill: enough for the matrices, little enough for the scratch memory."""


class Layer(nn.Module):
    """Attention and mixture of experts, each between a collapse and a mix of the n residual streams (mHC)."""

    def __init__(self, config: Config, index: int, memory_rows: int | None) -> None:
        super().__init__()
        n, width = config.hc_mult, config.hidden_size
        self.iters, self.hc_eps, self.eps = config.hc_sinkhorn_iters, config.hc_eps, config.rms_norm_eps
        self.engram = Engram(config, config.engram, memory_rows) if config.engram and memory_rows else None
        self.attn_norm = RMSNorm(width, self.eps)
        self.attn = Attention(config, index)
        self.ffn_norm = RMSNorm(width, self.eps)
        self.ffn = MoE(config, index)
        rows = (2 + n) * n
        self.hc_attn_fn = nn.Parameter(torch.empty(rows, n * width))
        self.hc_attn_base = nn.Parameter(torch.zeros(rows))
        self.hc_attn_scale = nn.Parameter(torch.ones(3))
        self.hc_ffn_fn = nn.Parameter(torch.empty(rows, n * width))
        self.hc_ffn_base = nn.Parameter(torch.zeros(rows))
        self.hc_ffn_scale = nn.Parameter(torch.ones(3))

    def forward(self, streams: Tensor, step: Step, cache: LayerCache, ticket: Ticket | None) -> Tensor:
        """streams [T, n, C] -> [T, n, C]."""
        if self.engram is not None and ticket is not None:
            streams = self.engram(streams, ticket, step, cache)
        x, post, comb = self._collapse(streams, self.hc_attn_fn, self.hc_attn_scale, self.hc_attn_base)
        streams = ops.mhc_post(self.attn(self.attn_norm(x), step, cache), streams, post, comb)
        x, post, comb = self._collapse(streams, self.hc_ffn_fn, self.hc_ffn_scale, self.hc_ffn_base)
        return ops.mhc_post(self.ffn(self.ffn_norm(x), step.batch.input_ids), streams, post, comb)

    def _collapse(self, streams: Tensor, fn: Tensor, scale: Tensor, base: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return ops.mhc_pre(streams, fn, scale, base, self.iters, self.hc_eps, self.eps)


class Transformer(nn.Module):
    """A DeepSeek-V4 language model, with Engram memories where the configuration has them.

    Parameters have DeepSeek's checkpoint names, but that routed experts are stacked (`ffn.experts.w13`, `ffn.experts.w2`).
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.engram_hash = EngramHash(config.engram) if config.engram else None
        token_map = torch.zeros(config.vocab_size, dtype=torch.int64) if config.engram else None
        self.register_buffer("engram_token_map", token_map)
        self.layers = nn.ModuleList(Layer(config, i, self._memory_rows(i)) for i in range(config.num_hidden_layers))
        n, width = config.hc_mult, config.hidden_size
        self.hc_head_fn = nn.Parameter(torch.empty(n, n * width))
        self.hc_head_base = nn.Parameter(torch.zeros(n))
        self.hc_head_scale = nn.Parameter(torch.ones(1))
        self.norm = RMSNorm(width, config.rms_norm_eps)
        self.head = Linear(width, config.vocab_size, wide=True)
        self.register_buffer("frequencies", inverse_frequencies(config, compressed=False), persistent=False)
        self.register_buffer("compressed_frequencies", inverse_frequencies(config, compressed=True), persistent=False)

    engram_token_map: Tensor | None
    frequencies: Tensor
    compressed_frequencies: Tensor

    @property
    def device(self) -> torch.device:
        return self.embed.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of activations and caches."""
        return self.embed.weight.dtype

    def forward(self, input_ids: Tensor, logits: Logits = "all") -> Tensor:
        """input_ids [B, S] int64, sequences of one length without a past -> float32 logits [B, S, V], or [B, 1, V]."""
        sequences, length = input_ids.shape
        if not length:
            raise BadInput("there are no tokens to compute")
        training = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())
        cache = self.cache(sequences, length, chunk=length if training else max(CHUNK // max(sequences, 1), 1))
        tokens = dict(enumerate(input_ids.tolist()))
        found = [self.step(cache.append(part), cache, logits) for part in chunks(tokens, cache.chunk)]
        if logits == "last":
            return found[-1][:, None]
        return torch.cat([part.unflatten(0, (sequences, -1)) for part in found], 1)

    def cache(self, sequences: int, capacity: int, chunk: int = CHUNK) -> Cache:
        """Memory for so many sequences of at most `capacity` tokens, `chunk` of them new in one step."""
        return Cache(self.config, sequences, capacity, chunk, self.dtype, self.device)

    def prefill(self, cache: Cache, tokens: Mapping[int, Sequence[int]]) -> Iterator[tuple[int, dict[int, Tensor]]]:
        """Read new tokens of some of the cache's sequences, in steps that it can take.

        Yields after each step the tokens read so far and, for each sequence whose last token was among them, its logits [V].
        """
        left, read = {slot: len(new) for slot, new in tokens.items()}, 0
        for part in chunks(tokens, max(cache.chunk // max(len(tokens), 1), 1)):
            rows, ended = self.step(cache.append(part), cache, "last"), {}
            for (slot, new), row in zip(part.items(), rows, strict=True):
                left[slot] -= len(new)
                if not left[slot]:
                    ended[slot] = row
            read += sum(map(len, part.values()))
            yield read, ended

    def step(self, batch: Batch, cache: Cache, logits: Logits = "all") -> Tensor:
        """Compute new tokens [T] of a ragged batch -> float32 logits [T, V], or [B, V] of each sequence's last."""
        if batch.decoding and not torch.is_grad_enabled():
            cache.decode = cache.decode or Repeated(lambda *tensors: self._computed(Batch(*tensors), cache, "all"))
            return cache.decode(*vars(batch).values())
        return self._computed(batch, cache, logits)

    def _computed(self, batch: Batch, cache: Cache, logits: Logits) -> Tensor:
        tickets = self._prefetch(batch)
        step = self._step(batch, cache)
        x = functional.embedding(batch.input_ids, self.embed.weight)
        streams = x[:, None].expand(-1, self.config.hc_mult, -1).contiguous()
        for index, (layer, memory) in enumerate(zip(self.layers, cache.layers, strict=True)):
            streams = layer(streams, step, memory, tickets.get(index))
        if logits == "last":
            streams = streams[batch.cu_seqlens[1:].long() - 1]
        eps, norm_eps = self.config.hc_eps, self.config.rms_norm_eps
        x = ops.mhc_head(streams, self.hc_head_fn, self.hc_head_scale, self.hc_head_base, eps, norm_eps)
        found: Tensor = self.head(self.norm(x))
        return found

    def _step(self, batch: Batch, cache: Cache) -> Step:
        ratios = set(self.config.compress_ratios) - {0}
        return Step(
            batch,
            cache.window_table(batch.slots),
            {ratio: cache.table(ratio, batch.slots) for ratio in ratios},
            ops.rotary_angles(batch.positions, self.frequencies),
            ops.rotary_angles(batch.positions, self.compressed_frequencies),
        )

    def _prefetch(self, batch: Batch) -> dict[int, Ticket]:
        """Ask for every memory row of this step: ids depend on tokens only, so all layers' are known now."""
        if self.engram_hash is None or self.config.engram is None or self.engram_token_map is None:
            return {}
        rows = self.engram_hash(self.engram_token_map, batch.input_ids, batch.history, batch.cu_seqlens)
        tickets = {}
        for index, ids in zip(self.config.engram.layer_ids, rows, strict=True):
            table: EngramTable = self.get_submodule(f"layers.{index}.engram.table")  # type: ignore[assignment]
            tickets[index] = table.handle(self.device, self.dtype).prefetch(ids)
        return tickets

    def _memory_rows(self, layer: int) -> int | None:
        """Rows of the memory before this layer, None where there is none."""
        engram = self.config.engram
        if engram is None or layer not in engram.layer_ids:
            return None
        return table_rows(engram)[engram.layer_ids.index(layer)]


def chunks(tokens: Mapping[int, Sequence[int]], size: int) -> Iterator[dict[int, Sequence[int]]]:
    """The sequences' tokens in parts of at most `size` each."""
    for start in range(0, max((len(new) for new in tokens.values()), default=0), size):
        yield {slot: part for slot, new in tokens.items() if len(part := new[start : start + size])}


def cast(model: Transformer, dtype: torch.dtype) -> Transformer:
    """Convert the weights, in place, but for those that are always float32 and those that are quantised."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.element_size() > 1 and not is_float32(name):
            parameter.data = parameter.data.to(dtype)
    return model


_ONES = re.compile(r"(.*norm\.weight|.*\.norm_(h|k|conv)|(.*\.)?hc_\w+_scale)")
_ZEROS = re.compile(r".*\.(ape|attn_sink|bias)|(.*\.)?hc_\w+_base")


@torch.no_grad()
def initialize(model: Transformer, seed: int = 0) -> Transformer:
    """Fresh weights as for training: matrices normal with the configuration's range, norms and scales 1, the rest 0.

    Hash-routing tables get distinct random experts in every row; token ids are compressed by their remainder, for want of a
    tokenizer.
    """
    g = torch.Generator(model.device).manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith(".tid2eid"):
            chances = torch.rand(tensor.shape[0], model.config.n_routed_experts, generator=g, device=tensor.device)
            tensor.copy_(chances.argsort(-1)[:, : tensor.shape[1]])
        elif _ONES.fullmatch(name):
            tensor.fill_(1.0)
        elif _ZEROS.fullmatch(name):
            tensor.zero_()
        elif name == "engram_token_map" and model.config.engram is not None:
            ids = torch.arange(len(tensor), device=tensor.device)
            tensor.copy_(ids % model.config.engram.compressed_vocab_size)
        else:
            tensor.normal_(0.0, model.config.initializer_range, generator=g)
    return model
