"""What a model remembers of its sequences: paged keys, compressors' unfinished windows, convolution tails, last tokens.

Window pages are a ring: the table maps a sequence's logical pages onto `ring` physical ones, over and over, so that pages
behind the window are reused without bookkeeping. Compressed entries and indexer keys are kept for the whole context.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deepport import ops
from deepport.errors import BadInput
from deepport.formats import accumulation
from deepport.graph import Repeated
from deepport.ops.compress import empty_state
from deepport_model.config import Config

PAGE = 64
"""Entries in a page. A multiple of 16, as vendors' paged kernels want it."""


@dataclass(frozen=True)
class Batch:
    """The new tokens of some sequences, one after another (`deepport.ragged`).

    Attributes:
        input_ids, positions: [T] int64.
        cu_seqlens: [B+1] int32.
        slots: [B] int32, the sequences' places in the cache.
        history: [B, N-1] int64, the token ids before each sequence's first new one, -1 where there is none.
    """

    input_ids: Tensor
    positions: Tensor
    cu_seqlens: Tensor
    slots: Tensor
    history: Tensor

    @property
    def decoding(self) -> bool:
        """Whether every sequence has one new token."""
        return len(self.input_ids) == len(self.slots)


def recording(*tensors: Tensor) -> bool:
    """Whether autograd records what is done with these: memory is then replaced by functional twins, not written to."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


class Pages:
    """One layer's paged entries. While gradients are recorded, writes are functional."""

    def __init__(
        self, sequences: int, pages: int, page: int, width: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.data = torch.zeros(sequences * pages, page, width, dtype=dtype, device=device)

    def write(self, table: Tensor, values: Tensor, positions: Tensor, cu_seqlens: Tensor) -> None:
        if recording(values, self.data):
            self.data = ops.write_pages(self.data, table, values, positions, cu_seqlens)
        else:
            ops.write_pages_(self.data, table, values, positions, cu_seqlens)


class Compressed:
    """One compressor's entries and the state of its unfinished windows."""

    def __init__(
        self,
        sequences: int,
        pages: int,
        page: int,
        width: int,
        ratio: int,
        overlap: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.pages = Pages(sequences, pages, page, width, dtype, device)
        self.state = empty_state(sequences, ratio, overlap, width * (1 + overlap), dtype, device)
        self.ratio, self.overlap = ratio, overlap


@dataclass
class LayerCache:
    """What one layer remembers; `keys` are the indexer's."""

    window: Pages
    entries: Compressed | None = None
    keys: Compressed | None = None
    convolution: Tensor | None = None


class Cache:
    """Memory for `sequences` sequences of at most `capacity` tokens, of which at most `chunk` are new in one step.

    Attributes:
        page: entries in a page; costs counted with pages of one entry are exact (`deepport.planning`).
        decode: the step that gives every sequence one token, captured for this memory and its model's weights (`deepport.graph`);
            None before the first.
    """

    decode: Repeated | None = None

    def __init__(
        self,
        config: Config,
        sequences: int,
        capacity: int,
        chunk: int,
        dtype: torch.dtype,
        device: torch.device,
        page: int = PAGE,
    ) -> None:
        if capacity > config.max_position_embeddings:
            raise BadInput(f"{capacity} tokens do not fit the model's context of {config.max_position_embeddings}")
        self.config, self.capacity, self.chunk, self.device = config, capacity, min(chunk, capacity), device
        self.page = page
        self._tokens: list[list[int]] = [[] for _ in range(sequences)]
        self._lengths = [0] * sequences
        ring = self._pages(config.sliding_window - 1 + self.chunk) + 1
        self._window_table = _table(sequences, self._pages(capacity), ring, device)
        self._tables = {
            ratio: _table(sequences, pages := self._pages(capacity // ratio), pages, device)
            for ratio in set(config.compress_ratios) - {0}
        }
        self.layers = [self._layer(i, ring, dtype) for i in range(config.num_hidden_layers)]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens each sequence has so far."""
        return tuple(self._lengths)

    def _layer(self, index: int, ring: int, dtype: torch.dtype) -> LayerCache:
        c, sequences = self.config, len(self._lengths)
        layer = LayerCache(Pages(sequences, ring, self.page, c.head_dim, dtype, self.device))
        if ratio := c.compress_ratios[index]:
            pages, overlap = (self._pages(self.capacity // ratio), self.page), c.overlaps(index)
            layer.entries = Compressed(sequences, *pages, c.head_dim, ratio, overlap, dtype, self.device)
            if overlap:
                layer.keys = Compressed(sequences, *pages, c.index_head_dim, ratio, overlap, dtype, self.device)
        if c.engram is not None and index in c.engram.layer_ids and c.engram.kernel_size:
            rows = (c.engram.kernel_size - 1) * c.engram.max_ngram_size
            shape = (sequences, rows, c.hc_mult * c.hidden_size)
            layer.convolution = torch.zeros(shape, dtype=accumulation(dtype), device=self.device)
        return layer

    def append(self, tokens: Mapping[int, Sequence[int]]) -> Batch:
        """Announce new tokens of some sequences, and get the step that computes them."""
        slots = [slot for slot, new in tokens.items() if len(new)]
        for slot in slots:
            self._admit(slot, len(tokens[slot]))
        spans = [range(self._lengths[s], self._lengths[s] + len(tokens[s])) for s in slots]
        ids = [i for s in slots for i in tokens[s]]
        history = [self._history(s) for s in slots]
        for slot in slots:
            self._tokens[slot] = [*self._tokens[slot], *tokens[slot]][-self._kept :] if self._kept else []
            self._lengths[slot] += len(tokens[slot])
        bounds = torch.tensor([0, *(len(s) for s in spans)]).cumsum(0).int()
        return Batch(
            torch.tensor(ids, dtype=torch.int64, device=self.device),
            torch.tensor([p for s in spans for p in s], dtype=torch.int64, device=self.device),
            bounds.to(self.device),
            torch.tensor(slots, dtype=torch.int32, device=self.device),
            torch.tensor(history, dtype=torch.int64, device=self.device).view(len(slots), self._kept),
        )

    def window_table(self, slots: Tensor) -> Tensor:
        """`[B, max_pages] int32` for the window pages of every layer."""
        return self._window_table[slots.long()]

    def table(self, ratio: int, slots: Tensor) -> Tensor:
        """`[B, max_pages] int32` for compressed entries, and indexer keys, of every layer with this ratio."""
        return self._tables[ratio][slots.long()]

    def held(self) -> Iterator[tuple[str, Tensor]]:
        """All memory that it keeps, by what it is for."""
        yield from (("page tables", table) for table in (self._window_table, *self._tables.values()))
        for layer in self.layers:
            yield "window cache", layer.window.data
            if layer.entries is not None:
                yield "compressed cache", layer.entries.pages.data
                yield "compressor state", layer.entries.state
            if layer.keys is not None:
                yield "indexer keys", layer.keys.pages.data
                yield "compressor state", layer.keys.state
            if layer.convolution is not None:
                yield "engram state", layer.convolution

    def reset(self, slots: Sequence[int] | None = None) -> None:
        """Forget these sequences (all by default); their places can then be used for others."""
        chosen = list(range(len(self._lengths)) if slots is None else slots)
        for slot in chosen:
            self._tokens[slot], self._lengths[slot] = [], 0
        for layer in self.layers:
            for part in (layer.entries, layer.keys):
                if part is not None:
                    channels = part.state.shape[-1] // 2
                    part.state[chosen, :, :channels] = 0
                    part.state[chosen, :, channels:] = -torch.inf
            if layer.convolution is not None:
                layer.convolution[chosen] = 0

    @property
    def _kept(self) -> int:
        """Last tokens of a sequence that a later step looks back at."""
        return self.config.engram.max_ngram_size - 1 if self.config.engram else 0

    def _pages(self, entries: int) -> int:
        return max(-(-entries // self.page), 1)

    def _history(self, slot: int) -> list[int]:
        return [*[-1] * (self._kept - len(self._tokens[slot])), *self._tokens[slot]]

    def _admit(self, slot: int, new: int) -> None:
        if new > self.chunk:
            raise BadInput(f"{new} new tokens in one step; this cache takes {self.chunk} at most")
        if self._lengths[slot] + new > self.capacity:
            raise BadInput(
                f"sequence {slot} would have {self._lengths[slot] + new} tokens; this cache holds {self.capacity}"
            )


def _table(sequences: int, logical: int, physical: int, device: torch.device) -> Tensor:
    """`[sequences, logical] int32`: each sequence's own `physical` pages, over and over."""
    first = torch.arange(sequences, device=device)[:, None] * physical
    return (first + torch.arange(logical, device=device) % physical).int()
