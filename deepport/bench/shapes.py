"""Arguments of calls as a model makes them: of true size, without padding, and such that each needs all that its cost says.

What an operator does may depend on its data: how many experts are chosen, how many entries are there. Its declared cost is
then the most that shapes allow, and these arguments ask for just that, so that the cost is exact and a share of it is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from deepport import formats
from deepport.ops.cache import ragged, shuffled_table
from deepport.ops.compress import empty_state
from deepport.spec import normal
from deepport_model.cache import PAGE
from deepport_model.config import Config

Arguments = dict[str, Any]

_DRAWN = 256
"""Rows of a weight that are drawn; the others repeat them. A multiple of every format's block."""


def weight(g: Generator, shape: Sequence[int], dtype: torch.dtype, format: str) -> tuple[Tensor, Tensor | None]:
    """A weight `[..., N, K]` in a format, and its scale: the speed of a product does not depend on its numbers."""
    *stack, rows, columns = shape
    data = normal(g, min(rows, _DRAWN), columns, dtype=dtype, scale=columns**-0.5)
    if format == formats.PLAIN:
        return _repeated(data, stack, rows), None
    data, scale = formats.encode(data, format)
    scales = formats.parse(format).scale_shape(rows, columns)[0]
    return _repeated(data, stack, rows), _repeated(scale, stack, scales)


def _repeated(rows: Tensor, stack: Sequence[int], count: int) -> Tensor:
    raw = rows.view(torch.uint8) if rows.element_size() == 1 else rows  # torch copies no 8-bit floats by index
    whole = raw[torch.arange(count) % len(raw)]
    return whole.expand(*stack, *whole.shape).contiguous().view(rows.dtype)


def linear(g: Generator, t: int, k: int, n: int, dtype: torch.dtype, format: str) -> Arguments:
    w, scale = weight(g, (n, k), dtype, format)
    return {"x": normal(g, t, k, dtype=dtype), "w": w, "scale": scale, "format": format}


def block_linear(g: Generator, t: int, gkn: tuple[int, int, int], dtype: torch.dtype, format: str) -> Arguments:
    groups, k, n = gkn
    w, scale = weight(g, (groups, n, k), dtype, format)
    return {"x": normal(g, t, groups, k, dtype=dtype), "w": w, "scale": scale, "format": format}


def experts_ids(t: int, k: int, experts: int, first: int = 0) -> Tensor:
    """`[t, k] int32`: distinct in a row, and as many different experts in all as there can be."""
    return ((first + torch.arange(t * k)) % experts).view(t, k).int()


def moe_experts(
    g: Generator, t: int, k: int, sizes: tuple[int, int, int], dtype: torch.dtype, format: str
) -> Arguments:
    """`sizes`: experts, model width, an expert's inner width."""
    experts, width, hidden = sizes
    w13, w13_scale = weight(g, (experts, 2 * hidden, width), dtype, format)
    w2, w2_scale = weight(g, (experts, width, hidden), dtype, format)
    return {
        "x": normal(g, t, width, dtype=dtype), "ids": experts_ids(t, k, experts),
        "weights": torch.full((t, k), 1 / k), "w13": w13, "w2": w2, "limit": 10.0,
        "w13_scale": w13_scale, "w2_scale": w2_scale, "format": format,
    }  # fmt: skip


def grouped_linear(g: Generator, rows: int, ekn: tuple[int, int, int], dtype: torch.dtype, format: str) -> Arguments:
    experts, k, n = ekn
    w, scale = weight(g, (experts, n, k), dtype, format)
    share = torch.arange(experts + 1) * rows // experts
    return {"x": normal(g, rows, k, dtype=dtype), "w": w, "scale": scale, "format": format, "offsets": share.int()}


def _pages(g: Generator, entries: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Pages that hold just so many entries of one sequence, in no order, and their table."""
    pages = -(-entries // PAGE)
    return normal(g, pages, PAGE, width, dtype=dtype), shuffled_table(g, 1, pages)


def _selection(g: Generator, ready: Tensor, k: int) -> Tensor:
    """`[T, k] int32`: as many distinct entries of those that are ready as there are, up to k, ascending, then -1."""
    rows = torch.full((len(ready), k), -1, dtype=torch.int32)
    for row, n in zip(rows, ready.tolist(), strict=True):
        ids = torch.randperm(n, generator=g)[:k].sort().values
        row[: len(ids)] = ids.int()
    return rows


def attention(g: Generator, c: Config, t: int, depth: int, ratio: int, dtype: torch.dtype) -> Arguments:
    """The last `t` tokens of a sequence of `depth` in a layer with this compression ratio."""
    positions, cu_seqlens = ragged((t,), (depth - t,))
    window, table = _pages(g, depth, c.head_dim, dtype)
    found: Arguments = {
        "q": normal(g, t, c.num_attention_heads, c.head_dim, dtype=dtype), "window_pages": window, "window_table": table,
        "compressed_pages": None, "compressed_table": None, "indices": None, "sink": normal(g, c.num_attention_heads),
        "positions": positions, "cu_seqlens": cu_seqlens, "scale": c.head_dim**-0.5, "window_size": c.sliding_window,
        "ratio": ratio,
    }  # fmt: skip
    if ratio:
        found["compressed_pages"], found["compressed_table"] = _pages(g, depth // ratio, c.head_dim, dtype)
    if ratio == c.csa_ratio:
        found["indices"] = _selection(g, (positions + 1) // ratio, c.index_topk)
    return found


def index_topk(g: Generator, c: Config, t: int, depth: int, dtype: torch.dtype) -> Arguments:
    positions, cu_seqlens = ragged((t,), (depth - t,))
    pages, table = _pages(g, depth // c.csa_ratio, c.index_head_dim, dtype)
    scale = (c.index_n_heads * c.index_head_dim) ** -0.5
    return {
        "q": normal(g, t, c.index_n_heads, c.index_head_dim, dtype=dtype),
        "weights": normal(g, t, c.index_n_heads, scale=scale), "pages": pages, "table": table,
        "positions": positions, "cu_seqlens": cu_seqlens, "ratio": c.csa_ratio, "k": c.index_topk,
    }  # fmt: skip


def compress(g: Generator, width: int, t: int, depth: int, ratio: int, overlap: bool, dtype: torch.dtype) -> Arguments:
    positions, cu_seqlens = ragged((t,), (depth - t,))
    channels = width * (1 + overlap)
    state = empty_state(1, ratio, overlap, channels, dtype, "cpu")
    state.copy_(normal(g, *state.shape))
    return {
        "kv": normal(g, t, channels, dtype=dtype), "gate": normal(g, t, channels, dtype=dtype),
        "position_bias": normal(g, ratio, channels), "state": state, "slots": torch.zeros(1, dtype=torch.int32),
        "positions": positions, "cu_seqlens": cu_seqlens, "ratio": ratio, "overlap": overlap,
    }  # fmt: skip


def write_pages(g: Generator, width: int, t: int, depth: int, dtype: torch.dtype) -> Arguments:
    positions, cu_seqlens = ragged((t,), (depth - t,))
    pages, table = _pages(g, depth, width, dtype)
    values = normal(g, t, width, dtype=dtype)
    return {"pages": pages, "table": table, "values": values, "positions": positions, "cu_seqlens": cu_seqlens}


def table(g: Generator, size: int, width: int, ids: tuple[int, ...], dtype: torch.dtype, format: str) -> Arguments:
    """A memory of about `size` bytes, and ids of rows all over it."""
    data, scale = weight(g, (_DRAWN, width), dtype, format)
    row = data[0].numel() * data.element_size() + (0 if scale is None else scale[0].numel() * scale.element_size())
    rows = size // row
    return {
        "rows": _repeated(data, (), rows), "ids": torch.randint(0, rows, ids, generator=g),
        "scale": None if scale is None else _repeated(scale, (), rows), "format": format, "dtype": dtype,
    }  # fmt: skip


def unpadded(build: Callable[..., Arguments], t: int, g: Generator, **given: Any) -> Arguments:
    """What a case's builder draws for `t` tokens, without the row of padding that follows them."""
    padded = ("ids", "dead", "gated")
    return {n: v[:t] if n in padded and isinstance(v, Tensor) else v for n, v in build(g, **given).items()}
