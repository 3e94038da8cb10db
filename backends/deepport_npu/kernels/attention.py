"""Attention over a window and compressed entries, by the vendor's sparse flash attention.

The vendor attends to rows of one tensor of keys, by lists of row numbers. A call's batch is one sequence to it: the keys that
any of the tokens can see are gathered once, and each token lists its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deepport.kernel import YES, Kernel, Signature, Support, no
from deepport.ragged import page_rows, sequence_of_row
from deepport_npu.kernels.chip import Chip, every, laid

_VENDOR = "npu_sparse_flash_attention"
_ROPE = 64
"""Channels that the vendor wants apart from the 512. V4's rotated channels are among those: here are zeros, which add nothing."""


def kernels(chip: Chip) -> tuple[Kernel, ...]:
    return (Kernel("sparse_attention", _VENDOR, sparse_attention, lambda s: _supports(chip, s)),)


def sparse_attention(
    q: Tensor, window_pages: Tensor, window_table: Tensor, compressed_pages: Tensor | None, compressed_table: Tensor | None,
    indices: Tensor | None, sink: Tensor | None, positions: Tensor, cu_seqlens: Tensor,
    scale: float, window_size: int, ratio: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The sink comes after, as `o sigmoid(lse - sink)`: A2 and A3 take none, and lse is wanted without it.

    A sequence's new tokens follow one another, as in `deepport.ragged`.
    """
    sequence = sequence_of_row(cu_seqlens, q.shape[0])
    keys, rows = _window(window_pages, window_table, positions, cu_seqlens, sequence, window_size)
    if compressed_pages is not None and compressed_table is not None:
        more, others = _compressed(
            compressed_pages, compressed_table, indices, positions, cu_seqlens, sequence, ratio
        )  # fmt: skip
        rows = torch.cat((rows, others.where(others < 0, others + len(keys))), 1)
        keys = torch.cat((keys, more))
    o, lse, dead = _attend(q, keys, rows, scale)
    if sink is not None:
        o = (o.float() * torch.sigmoid(lse - sink)[..., None]).to(q.dtype)
    return o.masked_fill(dead[:, None, None], 0.0), lse.masked_fill(dead[:, None], -torch.inf)


def _attend(q: Tensor, keys: Tensor, rows: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """o [T, H, D], lse [T, H], and [T], the tokens that see nothing: they look at row 0, for what that would be is not said."""
    import torch_npu

    listed = rows.int().sort(dim=1, descending=True).values  # valid first; the order among them is free
    dead = listed[:, 0] < 0
    listed[:, 0].clamp_(min=0)
    kv = keys[None, :, None]
    o, most, total = torch_npu.npu_sparse_flash_attention(
        q[None].contiguous(), kv, kv, listed[None, :, None], scale, query_rope=q.new_zeros((1, *q.shape[:2], _ROPE)),
        key_rope=q.new_zeros((1, len(keys), 1, _ROPE)), sparse_block_size=1, layout_query="BSND", layout_kv="BSND",
        sparse_mode=0, attention_mode=2, return_softmax_lse=True,
    )  # fmt: skip
    return o[0], (most + total.log())[0, 0], dead


def _window(
    pages: Tensor, table: Tensor, positions: Tensor, cu_seqlens: Tensor, sequence: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """Keys `[T + B (size - 1), D]`, each sequence's span of positions after the other, and `[T, size]`, who sees which."""
    batch, count, before = table.shape[0], len(positions), size - 1
    starts, lengths = cu_seqlens[:-1].long(), cu_seqlens.long().diff()
    first = positions[starts.clamp(max=count - 1)]
    row = torch.arange(count + batch * before, device=positions.device)
    each = torch.arange(batch, device=positions.device)
    owner = torch.searchsorted(starts + lengths + (each + 1) * before, row, right=True)
    there, owner = owner < batch, owner.clamp(max=batch - 1)
    place = row - starts[owner] - owner * before + first[owner] - before
    there &= (place >= 0) & (lengths[owner] > 0)
    keys = _gathered(pages, table, owner, place, there)
    token = torch.arange(count, device=positions.device)[:, None]
    back = torch.arange(size, device=positions.device)
    seen = (positions[:, None] >= back) & (sequence < batch)[:, None]
    return keys, (token + (sequence[:, None] + 1) * before - back).masked_fill(~seen, -1)


def _compressed(
    pages: Tensor, table: Tensor, indices: Tensor | None, positions: Tensor, cu_seqlens: Tensor, sequence: Tensor, ratio: int
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Keys, and `[T, entries]`, who sees which. Each token's own keys where those are fewer than all that tables can hold."""
    batch, capacity = table.shape[0], table.shape[1] * pages.shape[1]
    owner = sequence.clamp(max=batch - 1)
    real = (sequence < batch)[:, None]
    if indices is not None and _own(indices.shape, table.shape, pages.shape):
        ids = indices.long().masked_fill(~real, -1)
        rows = torch.arange(ids.numel(), device=ids.device).view(ids.shape).masked_fill(ids < 0, -1)
        keys = _gathered(pages, table, owner[:, None].expand_as(ids).flatten(), ids.flatten(), ids.flatten() >= 0)
        return keys, rows
    entry = torch.arange(capacity, device=positions.device)
    ready = ((positions + 1) // ratio).masked_fill(sequence >= batch, 0)
    filled = ready[(cu_seqlens[1:].long() - 1).clamp(min=0)].masked_fill(cu_seqlens.diff() == 0, 0)
    owners = torch.arange(batch, device=positions.device).repeat_interleave(capacity)
    keys = _gathered(pages, table, owners, entry.repeat(batch), (entry < filled[:, None]).flatten())
    ids = entry.expand(len(positions), -1) if indices is None else indices.long()
    seen = (ids < ready[:, None]) if indices is None else (ids >= 0)
    return keys, (ids + owner[:, None] * capacity).masked_fill(~(seen & real), -1)


def _own(indices: torch.Size, table: torch.Size, pages: torch.Size) -> bool:
    return indices[0] * indices[1] <= table[0] * table[1] * pages[1]


def _gathered(pages: Tensor, table: Tensor, owner: Tensor, entries: Tensor, there: Tensor) -> Tensor:
    """`[N, D]` entries of sequences. Where none is there, a table may hold anything: row 0 stands in, and nobody lists it."""
    entries = entries.clamp(0, table.shape[1] * pages.shape[1] - 1)
    return pages.flatten(0, 1).index_select(0, page_rows(table, pages.shape[1], owner, entries).masked_fill(~there, 0))


def _supports(chip: Chip, call: Signature) -> Support:
    q, window, table, compressed = call["q"], call["window_pages"], call["window_table"], call["compressed_pages"]
    tokens, heads, size = q.shape
    if not table.shape[0]:
        return no("shape", "there are no sequences")
    rows, listed = tokens + table.shape[0] * (call["window_size"] - 1), call["window_size"]
    if compressed is not None:
        more, entries = _more(call)
        rows, listed = rows + more, listed + entries
    for name in ("window_pages", "compressed_pages"):
        if (pages := call[name]) is not None and not pages.contiguous:
            return no("layout", f"{name} are not contiguous, and a cache is not copied")
    if (sink := call["sink"]) is not None and sink.dtype != torch.float32:
        return no("dtype", f"sink is {sink.dtype}; it is float32")
    key = laid(window.dtype, 1, rows, 1, window.shape[-1])
    return every(
        chip.takes(
            _VENDOR, query=laid(q.dtype, 1, tokens, heads, size), key=key, value=key,
            sparse_indices=laid(torch.int32, 1, tokens, 1, listed), scale_value=call["scale"],
            query_rope=laid(q.dtype, 1, tokens, heads, _ROPE), key_rope=laid(q.dtype, 1, rows, 1, _ROPE),
            sparse_block_size=1, layout_query="BSND", layout_kv="BSND", sparse_mode=0, attention_mode=2,
            return_softmax_lse=True,
        ),
        YES if compressed is None or compressed.dtype == q.dtype else no("dtype", "both caches have q's dtype"),
    )  # fmt: skip


def _more(call: Signature) -> tuple[int, int]:
    """How many compressed keys are gathered, and how many entries a token lists."""
    pages, table, indices = call["compressed_pages"], call["compressed_table"], call["indices"]
    capacity: int = table.shape[1] * pages.shape[1]
    if indices is None:
        return table.shape[0] * capacity, capacity
    own = _own(indices.shape, table.shape, pages.shape)
    return (indices.shape[0] * indices.shape[1] if own else table.shape[0] * capacity), indices.shape[1]
