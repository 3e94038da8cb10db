"""Shared-KV attention over a window and compressed entries (DeepSeek-V4, section 2.3), with one softmax over both.

One launch where there are programs enough, for every token and 16 heads; else (`splits`) each has a part of its entries only,
and a second launch joins the parts, always in the same order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepport.fit import calls
from deepport.kernel import Kernel, Signature, Support, no
from deepport_triton import interpreting
from deepport_triton.kernels.elementwise import ACTIVATIONS
from deepport_triton.kernels.ragged import sequence_of
from deepport_triton.launch import launch

HEADS, ENTRIES = 16, 64 if interpreting() else 16
"""Heads of a program, and entries that it sees at a time; the interpreter's time is that of its steps."""

WIDE = 256 if interpreting() else 64
"""Channels of float32 that are multiplied at a time: no matrix instruction takes them, and threads hold what they multiply."""

ENOUGH, LEAST, MOST = 128, 64, 16
"""Programs that keep a chip busy; entries that are worth a program, and parts that are worth joining."""


def splits(programs: int, entries: int) -> int:
    """In how many parts the entries of a token are seen."""
    return max(min(ENOUGH // max(programs, 1), entries // LEAST, MOST), 1)


@triton.jit
def _places(table, held, sequence, columns, page, entry, seen):
    """The rows of entries in a paged cache of `held` pages, and which of those seen there are."""
    seen = seen & (entry >= 0) & (entry < columns * page)
    place = tl.load(table + sequence * columns + tl.where(seen, entry // page, 0), mask=seen, other=0).to(tl.int64)
    seen = seen & (place >= 0) & (place < held)
    return tl.where(seen, place * page + entry % page, 0), seen


@triton.jit
def _channels(x, row, there, size, first, width: tl.constexpr):
    """Of rows of `size` channels, `width` from the first on: `[rows, width]`, 0 where nothing is."""
    channel = first + tl.arange(0, width)
    inside = there[:, None] & (channel < size)[None, :]
    return tl.load(x + (row * size)[:, None] + channel[None, :], mask=inside, other=0.0)


@triton.jit
def entries(pages, table, held, sequence, columns, page, entry, seen, size, width: tl.constexpr):
    """The rows `[block, width]` of a paged cache of `held` pages, 0 where nothing is seen or there is no such row."""
    row, there = _places(table, held, sequence, columns, page, entry, seen)
    return _channels(pages, row, there, size, 0, width)


@triton.jit
def _scores(q, own, head, there, keys, pages, row, found, size, slice: tl.constexpr):
    """`q keys^T` of heads and entries: at once, or as the sum of slices of the channels, which are read again."""
    if slice == keys.shape[1]:
        scores = tl.dot(own, tl.trans(keys), input_precision="ieee")
    else:
        scores = tl.zeros((own.shape[0], keys.shape[0]), tl.float32)
        for first in range(0, keys.shape[1], slice):
            mine = _channels(q, head, there, size, first, slice)
            theirs = _channels(pages, row, found, size, first, slice)
            scores = tl.dot(mine, tl.trans(theirs), scores, input_precision="ieee")
    return scores


@triton.jit
def _attend(
    q, own, head, there, pages, row, found, seen, size, scale, peak, total, sums, width: tl.constexpr, slice: tl.constexpr
):  # fmt: skip
    """Join entries, those seen, to what some heads have found: peak, total [heads], sums [heads, width]."""
    keys = _channels(pages, row, found, size, 0, width)
    scores = _scores(q, own, head, there, keys, pages, row, found, size, slice)
    scores = tl.where(seen[None, :], scores * scale, float("-inf"))
    top = tl.maximum(peak, tl.max(scores, 1))
    base = tl.where(top == float("-inf"), 0.0, top)  # of heads that have seen nothing yet
    keep, weights = tl.exp(peak - base), tl.exp(scores - base[:, None])
    total = total * keep + tl.sum(weights, 1)
    sums = tl.dot(weights.to(keys.dtype), keys, sums * keep[:, None], input_precision="ieee")
    return top, total, sums


@triton.jit
def _share(begin, end, part, parts: tl.constexpr):
    """A part of a range."""
    each = (end - begin + parts - 1) // parts
    first = begin + part * each
    return first, tl.minimum(first + each, end)


@triton.jit
def _finish(o, lse, at, row, there, inside, peak, total, sums, extra):
    """What was seen, and the sink's logit, as a token's result."""
    top = tl.maximum(peak, extra)
    top = tl.where(top == float("-inf"), 0.0, top)
    keep = tl.exp(peak - top)
    whole = total * keep + tl.exp(extra - top)
    share = tl.where(whole == 0.0, 0.0, keep / tl.where(whole == 0.0, 1.0, whole))
    tl.store(o + at, (sums * share[:, None]).to(o.dtype.element_ty), mask=inside)
    found = tl.where(total > 0.0, peak + tl.log(tl.where(total > 0.0, total, 1.0)), float("-inf"))
    tl.store(lse + row, tl.where(total != total, total, found), mask=there)


@triton.jit
def _sink_of(sink, head, there, rows: tl.constexpr, sunk: tl.constexpr):
    none = tl.full((rows,), float("-inf"), tl.float32)
    return tl.load(sink + head, mask=there, other=float("-inf")) if sunk else none


@triton.jit
def _attention_token(
    q, window, window_table, compressed, compressed_table, indices, sink, positions, cu_seqlens, o, lse, sums_of, peaks,
    heads, size, sequences, window_pages, window_page, window_columns, compressed_pages, compressed_page, compressed_columns,
    selected, scale, window_size, ratio,
    far: tl.constexpr, chosen: tl.constexpr, sunk: tl.constexpr,
    parts: tl.constexpr, rows: tl.constexpr, width: tl.constexpr, slice: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    token, part = tl.program_id(0).to(tl.int64), tl.program_id(2)
    head, channel = tl.program_id(1) * rows + tl.arange(0, rows), tl.arange(0, width)
    there, inside = head < heads, (head < heads)[:, None] & (channel < size)[None, :]
    row = token * heads + head
    at = row[:, None] * size + channel[None, :]
    present = token < tl.load(cu_seqlens + sequences)
    sequence = sequence_of(token, cu_seqlens, sequences, 128).to(tl.int64)
    position = tl.load(positions + token, mask=present, other=-1).to(tl.int32)  # entries are divided by the page
    own = _channels(q, row, there, size, 0, slice)
    peak, total = tl.full((rows,), float("-inf"), tl.float32), tl.zeros((rows,), tl.float32)
    sums = tl.zeros((rows, width), tl.float32)

    first, end = _share(tl.maximum(position - window_size + 1, 0), position + 1, part, parts)
    for begin in range(first, end, block):
        entry = begin + tl.arange(0, block)
        seen = entry < end
        place, found = _places(window_table, window_pages, sequence, window_columns, window_page, entry, seen)
        peak, total, sums = _attend(
            q, own, row, there, window, place, found, seen, size, scale, peak, total, sums, width, slice
        )
    if far:
        count = (position + 1) // ratio
        if chosen:
            count = tl.where(present, selected, 0)
        first, end = _share(0, count, part, parts)
        for begin in range(first, end, block):
            entry = begin + tl.arange(0, block)
            seen = entry < end
            if chosen:
                entry = tl.load(indices + token * selected + entry, mask=seen, other=-1)
                seen = (entry >= 0) & (entry < compressed_columns * compressed_page)
            place, found = _places(
                compressed_table, compressed_pages, sequence, compressed_columns, compressed_page, entry, seen
            )
            peak, total, sums = _attend(
                q, own, row, there, compressed, place, found, seen, size, scale, peak, total, sums, width, slice
            )
    if parts == 1:
        _finish(o, lse, at, row, there, inside, peak, total, sums, _sink_of(sink, head, there, rows, sunk))
    else:
        mine = row * parts + part
        tl.store(sums_of + mine[:, None] * size + channel[None, :], sums, mask=inside)
        tl.store(peaks + 2 * mine, peak, mask=there)
        tl.store(peaks + 2 * mine + 1, total, mask=there)


@triton.jit
def _join_token(
    sink, o, lse, sums_of, peaks, heads, size,
    sunk: tl.constexpr, parts: tl.constexpr, rows: tl.constexpr, width: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head, channel = tl.program_id(1) * rows + tl.arange(0, rows), tl.arange(0, width)
    there, inside = head < heads, (head < heads)[:, None] & (channel < size)[None, :]
    row = token * heads + head
    peak, total = tl.full((rows,), float("-inf"), tl.float32), tl.zeros((rows,), tl.float32)
    sums = tl.zeros((rows, width), tl.float32)
    for part in range(parts):
        mine = row * parts + part
        other = tl.load(peaks + 2 * mine, mask=there, other=float("-inf"))
        top = tl.maximum(peak, other)
        base = tl.where(top == float("-inf"), 0.0, top)
        keep, gain = tl.exp(peak - base), tl.exp(other - base)
        total = total * keep + tl.load(peaks + 2 * mine + 1, mask=there, other=0.0) * gain
        found = tl.load(sums_of + mine[:, None] * size + channel[None, :], mask=inside, other=0.0)
        sums, peak = sums * keep[:, None] + found * gain[:, None], top
    at = row[:, None] * size + channel[None, :]
    _finish(o, lse, at, row, there, inside, peak, total, sums, _sink_of(sink, head, there, rows, sunk))


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
    programs = tokens * triton.cdiv(heads, HEADS)
    seen = window_size + (0 if not far else chosen.shape[1] if indices is not None else _capacity(*of_far))
    parts = splits(programs, seen)
    sums = q.new_empty((tokens, heads, parts, size), dtype=torch.float32) if parts > 1 else lse
    peaks = q.new_empty((tokens, heads, parts, 2), dtype=torch.float32) if parts > 1 else lse
    sizes = {
        "rows": HEADS,
        "width": max(int(triton.next_power_of_2(size)), 16),
        "parts": parts,
        "sunk": sink is not None,
    }
    launch(
        _attention_token, (tokens, triton.cdiv(heads, HEADS), parts), q, *near, *of_far, chosen, given,
        positions.contiguous(), cu_seqlens.contiguous(), o, lse, sums, peaks, heads, size, cu_seqlens.shape[0] - 1,
        *window_pages.shape[:2], window_table.shape[1], *of_far[0].shape[:2], of_far[1].shape[1], chosen.shape[1],
        scale, window_size, max(ratio, 1), far=far, chosen=far and indices is not None, block=ENTRIES,
        slice=min(sizes["width"], WIDE) if q.dtype == torch.float32 else sizes["width"], **sizes,
    )  # fmt: skip
    if parts > 1:
        launch(_join_token, (tokens, triton.cdiv(heads, HEADS)), given, o, lse, sums, peaks, heads, size, **sizes)
    return o, lse


def _capacity(pages: Tensor, table: Tensor) -> int:
    return pages.shape[1] * table.shape[1]


def _sparse_attention(signature: Signature) -> Support:
    if signature["cu_seqlens"].shape[0] < 2:
        return no("shape", "there are no sequences")
    return calls.sparse_attention(signature, ACTIVATIONS)


KERNELS = (Kernel("sparse_attention", "triton", sparse_attention, _sparse_attention),)
