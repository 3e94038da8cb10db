"""Engram: a memory of hashed n-grams, added to the residual streams before a layer's attention (arXiv 2601.07372)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from deepport import formats, ops
from deepport.table import Placement, Table, Ticket
from deepport_model.attention import Step
from deepport_model.cache import LayerCache, recording
from deepport_model.config import Config, EngramConfig
from deepport_model.engram_tokens import hash_parameters
from deepport_model.modules import Linear

_CLAMP = 1e-6
"""Least magnitude under the gate's square root, in the official demo and everywhere since."""


class EngramTable(nn.Module):
    """The rows of one layer's memory. Placed on the host, they stay there when the model moves to a device."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.empty(rows, width))
        self.scale: nn.Parameter | None = None
        self.format = formats.PLAIN
        self.placement: Placement = "device"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        if self.placement == "host" and not self.rows.is_meta:
            return self
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def handle(self, device: torch.device, dtype: torch.dtype) -> Table:
        return Table(self.rows, self.scale, self.format, device=device, dtype=dtype, placement=self.placement)


class EngramHash(nn.Module):
    """Token ids to table rows, for all layers at once: token-id compression, then hashed n-grams."""

    def __init__(self, engram: EngramConfig) -> None:
        super().__init__()
        self.pad, self.boundary = engram.pad_id, engram.boundary_id
        multipliers, moduli, offsets = hash_parameters(engram)
        self.register_buffer("multipliers", multipliers, persistent=False)
        self.register_buffer("moduli", moduli, persistent=False)
        self.register_buffer("offsets", offsets, persistent=False)
        self._known: tuple[Tensor, int, tuple[int, int | None]] | None = None

    multipliers: Tensor
    moduli: Tensor
    offsets: Tensor

    def forward(self, token_map: Tensor, input_ids: Tensor, history: Tensor, cu_seqlens: Tensor) -> Tensor:
        """token_map [V], input_ids [T], history [B, N-1] (-1 for none) -> rows [layers, T, heads] int64."""
        earlier = torch.where(history < 0, -1, token_map[history.clamp(min=0)])
        pad, boundary = self._compressed(token_map)
        return ops.engram_hash(
            token_map[input_ids], earlier, cu_seqlens, self.multipliers, self.moduli, self.offsets, pad, boundary
        )

    def assume(self, token_map: Tensor, id: int) -> None:
        """Take this for the compressed ids of a token map that has no data to read them from."""
        self._known = token_map, _version(token_map), (id, None if self.boundary is None else id)

    def _compressed(self, token_map: Tensor) -> tuple[int, int | None]:
        """The pad and boundary tokens' compressed ids, read once: a step does not wait for the device to say them again."""
        if token_map.is_meta:  # while planning: the cost of a hash does not depend on them
            return 0, None
        version = _version(token_map)
        if self._known is None or self._known[0] is not token_map or self._known[1] != version:
            pad, boundary = token_map[[self.pad, self.pad if self.boundary is None else self.boundary]].tolist()
            self._known = token_map, version, (pad, None if self.boundary is None else boundary)
        return self._known[2]


def _version(tensor: Tensor) -> int:
    """How often it was written to; an inference tensor does not count."""
    return 0 if tensor.is_inference() else tensor._version


class Engram(nn.Module):
    """One layer's memory: gathered rows become a key per stream and one value; a gate decides how much is added."""

    def __init__(self, config: Config, engram: EngramConfig, rows: int) -> None:
        super().__init__()
        n, width = config.hc_mult, config.hidden_size
        self.streams, self.eps, self.zero, self.dilation = n, config.rms_norm_eps, engram.zero, engram.max_ngram_size
        self.table = EngramTable(rows, engram.row_width)
        self.wk = Linear(engram.width, n * width)
        self.wv = Linear(engram.width, width)
        self.norm_h = nn.Parameter(torch.ones(n, width))
        self.norm_k = nn.Parameter(torch.ones(n, width))
        kernel = engram.kernel_size
        self.norm_conv = nn.Parameter(torch.ones(n, width)) if kernel else None
        self.conv = nn.Parameter(torch.empty(n * width, kernel)) if kernel else None

    def forward(self, streams: Tensor, ticket: Ticket, step: Step, cache: LayerCache) -> Tensor:
        """streams [T, n, C] -> the same with the memory added."""
        rows = ticket.wait().flatten(1)
        key = self.wk(rows).unflatten(-1, (self.streams, -1))
        gated = ops.engram_gate(streams, key, self.wv(rows), self.norm_h, self.norm_k, self.eps, _CLAMP, self.zero)
        return streams + self._convolved(gated, step, cache)

    def _convolved(self, gated: Tensor, step: Step, cache: LayerCache) -> Tensor:
        if self.conv is None or self.norm_conv is None or cache.convolution is None:
            return gated
        batch = step.batch
        arguments = (
            gated,
            self.norm_conv,
            self.conv,
            cache.convolution,
            batch.slots,
            batch.cu_seqlens,
            self.dilation,
            self.eps,
        )
        if recording(gated, self.conv):
            out, cache.convolution = ops.engram_conv(*arguments)
            return out
        return ops.engram_conv_(*arguments)
