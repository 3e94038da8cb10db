"""Shared-KV attention over a window and compressed entries (DeepSeek-V4, section 2.3), with one softmax over both."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepport.fit import dtypes, floats, shapes
from deepport.kernel import Kernel, Signature, Support, no
from deepport_triton.kernels.elementwise import ACTIVATIONS
from deepport_triton.kernels.ragged import sequence_of
from deepport_triton.launch import launch


@triton.jit
def _attend(q, keys, seen, scale, peak, total, sums):
    """Join the entries `keys [block, D]`, those seen, to what some heads have found: peak, total [heads], sums [heads, D]."""
    scores = tl.dot(q, tl.trans(keys), input_precision="ieee")
    scores = tl.where(seen[None, :], scores * scale, float("-inf"))
    top = tl.maximum(peak, tl.max(scores, 1))
    base = tl.where(top == float("-inf"), 0.0, top)  # of heads that have seen nothing yet
    keep, weights = tl.exp(peak - base), tl.exp(scores - base[:, None])
    total = total * keep + tl.sum(weights, 1)
    sums = tl.dot(weights.to(keys.dtype), keys, sums * keep[:, None], input_precision="ieee")
    return top, total, sums


@triton.jit
def entries(pages, table, sequence, columns, page, entry, seen, size, width: tl.constexpr):
    """The rows `[block, width]` of a paged cache, 0 where nothing is seen."""
    place = tl.load(table + sequence * columns + entry // page, mask=seen, other=0).to(tl.int64)
    channel = tl.arange(0, width)
    rows = pages + (place * page + entry % page)[:, None] * size + channel[None, :]
    return tl.load(rows, mask=seen[:, None] & (channel < size)[None, :], other=0.0)


@triton.jit
def _attention_token(
    q, window, window_table, compressed, compressed_table, indices, sink, positions, cu_seqlens, o, lse,
    heads, size, sequences, window_page, window_columns, compressed_page, compressed_columns, selected,
    scale, window_size, ratio,
    far: tl.constexpr, chosen: tl.constexpr, sunk: tl.constexpr,
    rows: tl.constexpr, width: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head, channel = tl.program_id(1) * rows + tl.arange(0, rows), tl.arange(0, width)
    there, inside = head < heads, (head < heads)[:, None] & (channel < size)[None, :]
    at = (token * heads + head)[:, None] * size + channel[None, :]
    present = token < tl.load(cu_seqlens + sequences)
    sequence = sequence_of(token, cu_seqlens, sequences, 128).to(tl.int64)
    position = tl.load(positions + token, mask=present, other=-1)
    own = tl.load(q + at, mask=inside, other=0.0)
    peak, total = tl.full((rows,), float("-inf"), tl.float32), tl.zeros((rows,), tl.float32)
    sums = tl.zeros((rows, width), tl.float32)

    oldest = tl.maximum(position - window_size + 1, 0)
    for begin in range(oldest, position + 1, block):
        entry = begin + tl.arange(0, block)
        seen = entry <= position
        keys = entries(window, window_table, sequence, window_columns, window_page, entry, seen, size, width)
        peak, total, sums = _attend(own, keys, seen, scale, peak, total, sums)
    if far:
        count = (position + 1) // ratio
        if chosen:
            count = tl.where(present, selected, 0).to(tl.int64)
        for begin in range(0, count, block):
            entry = begin + tl.arange(0, block)
            seen = entry < count
            if chosen:
                entry = tl.load(indices + token * selected + entry, mask=seen, other=-1).to(tl.int64)
                seen = entry >= 0
            keys = entries(
                compressed, compressed_table, sequence, compressed_columns, compressed_page, entry, seen, size, width
            )
            peak, total, sums = _attend(own, keys, seen, scale, peak, total, sums)

    extra = tl.full((rows,), float("-inf"), tl.float32)
    if sunk:
        extra = tl.load(sink + head, mask=there, other=float("-inf"))
    top = tl.maximum(peak, extra)
    top = tl.where(top == float("-inf"), 0.0, top)
    keep = tl.exp(peak - top)
    whole = total * keep + tl.exp(extra - top)
    share = tl.where(whole == 0.0, 0.0, keep / tl.where(whole == 0.0, 1.0, whole))
    tl.store(o + at, (sums * share[:, None]).to(o.dtype.element_ty), mask=inside)
    found = tl.where(total > 0.0, peak + tl.log(tl.where(total > 0.0, total, 1.0)), float("-inf"))
    tl.store(lse + token * heads + head, tl.where(total != total, total, found), mask=there)


def sparse_attention(
    q: Tensor, window_pages: Tensor, window_table: Tensor, compressed_pages: Tensor | None, compressed_table: Tensor | None,
    indices: Tensor | None, sink: Tensor | None, positions: Tensor, cu_seqlens: Tensor,
    scale: float, window_size: int, ratio: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    tokens, heads, size = q.shape
    q, window_pages, window_table = q.contiguous(), window_pages.contiguous(), window_table.contiguous()
    far = compressed_pages is not None and compressed_table is not None
    near = (window_pages, window_table)
    of_far = tuple(t.contiguous() for t in (compressed_pages, compressed_table) if t is not None) if far else near
    chosen = indices.contiguous() if far and indices is not None else window_table
    given = sink.contiguous() if sink is not None else q
    o, lse = torch.empty_like(q), q.new_empty((tokens, heads), dtype=torch.float32)
    rows = 16
    launch(
        _attention_token, (tokens, triton.cdiv(heads, rows)), q, *near, *of_far, chosen, given, positions.contiguous(),
        cu_seqlens.contiguous(), o, lse, heads, size, cu_seqlens.shape[0] - 1, window_pages.shape[1], window_table.shape[1],
        of_far[0].shape[1], of_far[1].shape[1], chosen.shape[1], scale, window_size, max(ratio, 1),
        far=far, chosen=far and indices is not None, sunk=sink is not None,
        rows=rows, width=max(int(triton.next_power_of_2(size)), 16), block=16,
    )  # fmt: skip
    return o, lse


def _sparse_attention(signature: Signature) -> Support:
    wide, narrow = torch.int64, torch.int32
    compressed = [t for t in (signature["compressed_pages"], signature["compressed_table"]) if t is not None]
    if compressed and (signature["ratio"] < 1 or any(0 in t.shape for t in compressed)):
        return no("attribute", "the reference refuses such a call")
    if signature["cu_seqlens"].shape[0] < 2:
        return no("shape", "there are no sequences")
    return floats(signature, "q", "window_pages", "compressed_pages", of=ACTIVATIONS) and dtypes(
        signature, window_table=narrow, compressed_table=narrow, indices=narrow, sink=torch.float32, positions=wide,
        cu_seqlens=narrow,
    ) and shapes(
        signature, q="T H D", window_pages="P page D", window_table="B M", compressed_pages="C entries D",
        compressed_table="B N", indices="T K", sink="H", positions="T", cu_seqlens="B+1",
    )  # fmt: skip


KERNELS = (Kernel("sparse_attention", "triton", sparse_attention, _sparse_attention),)
