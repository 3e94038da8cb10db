"""The lightning indexer (DeepSeek-V4, section 2.3): scores of compressed entries, and the k best of each token."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepport.fit import calls
from deepport.kernel import Kernel, Signature, Support, no
from deepport_triton import interpreting
from deepport_triton.kernels.attention import entries
from deepport_triton.kernels.elementwise import ACTIVATIONS
from deepport_triton.kernels.ragged import sequence_of
from deepport_triton.launch import launch

HEADS, ENTRIES = 16, 128 if interpreting() else 32
"""Heads and entries that a program multiplies at a time."""

TOKENS, SCORES = (64, 128) if interpreting() else (1, 1024)
"""Tokens that a program chooses for, and scores that it looks at: the interpreter's time is that of its programs' steps."""


@triton.jit
def _ready(token, positions, cu_seqlens, sequences, ratio):
    """How many compressed entries there are for a token; none for padding."""
    present = token < tl.load(cu_seqlens + sequences)
    return (tl.load(positions + token, mask=present, other=-1).to(tl.int32) + 1) // ratio


@triton.jit
def _score_block(
    q, weights, pages, table, positions, cu_seqlens, scores, heads, size, sequences, held, page, columns, ratio, most,
    rows: tl.constexpr, width: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    token, begin = tl.program_id(0).to(tl.int64), tl.program_id(1) * block
    ready = _ready(token, positions, cu_seqlens, sequences, ratio)
    if begin < ready:
        sequence = sequence_of(token, cu_seqlens, sequences, 128).to(tl.int64)
        entry, channel = begin + tl.arange(0, block), tl.arange(0, width)
        keys = entries(pages, table, held, sequence, columns, page, entry, entry < ready, size, width)
        total = tl.zeros((block,), tl.float32)
        for first in range(0, heads, rows):
            head = first + tl.arange(0, rows)
            inside = (head < heads)[:, None] & (channel < size)[None, :]
            own = tl.load(q + (token * heads + head)[:, None] * size + channel[None, :], mask=inside, other=0.0)
            by = tl.load(weights + token * heads + head, mask=head < heads, other=0.0)
            found = tl.dot(own, tl.trans(keys), input_precision="ieee")
            found = tl.where(found < 0.0, 0.0, found)  # NaN stays
            total += tl.sum(found * by[:, None], 0)
        tl.store(scores + token * most + entry, total, mask=entry < ready)


@triton.jit
def _order(score, there):
    """Integers in the order of scores, 1 for the least; 0 of NaN and of what is not there, which are never chosen."""
    bits = tl.where(score == 0.0, 0.0, score).to(tl.int32, bitcast=True)
    bits = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64) + 2147483648
    return tl.where(there & (score == score), bits, 0)


@triton.jit
def _orders(scores, begin, ready, rows: tl.constexpr, block: tl.constexpr):
    at = begin + tl.arange(0, block)
    there = at[None, :] < ready[:, None]
    return _order(tl.load(scores[:, None] + at[None, :], mask=there, other=0.0), there)


@triton.jit
def _at_least(scores, ready, least, rows: tl.constexpr, block: tl.constexpr):
    """How many of each row's scores are in the order of `least [rows]` or above."""
    found = tl.zeros((rows,), tl.int32)
    for begin in range(0, tl.max(ready, 0), block):
        found += tl.sum((_orders(scores, begin, ready, rows, block) >= least[:, None]).to(tl.int32), 1)
    return found


@triton.jit
def _select_tokens(
    scores, positions, cu_seqlens, ids, tokens, sequences, ratio, most, k,
    rows: tl.constexpr, block: tl.constexpr, slots: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    ready = _ready(token, positions, cu_seqlens, sequences, ratio)
    mine, to = scores + token * most, ids + token * k
    wanted = tl.minimum(_at_least(mine, ready, tl.full((rows,), 1, tl.int64), rows, block), k)
    # The order of the last one that is chosen, bit by bit from the highest.
    last = tl.full((rows,), 0, tl.int64)
    for bit in range(32):
        higher = last + (tl.full((rows,), 1, tl.int64) << (31 - bit))
        last = tl.where(_at_least(mine, ready, higher, rows, block) >= wanted, higher, last)
    ties = wanted - _at_least(mine, ready, last + 1, rows, block)
    # Ascending; of those that tie with the last, the lowest.
    chosen, tied = tl.zeros((rows,), tl.int32), tl.zeros((rows,), tl.int32)
    for begin in range(0, tl.max(ready, 0), block):
        order = _orders(mine, begin, ready, rows, block)
        ties_here = (order == last[:, None]) & (order > 0)
        rank = tied[:, None] + tl.cumsum(ties_here.to(tl.int32), 1)
        take = ((order > last[:, None]) | (ties_here & (rank <= ties[:, None]))) & (wanted > 0)[:, None]
        place = chosen[:, None] + tl.cumsum(take.to(tl.int32), 1) - 1
        entry = tl.zeros((rows, 1), tl.int32) + (begin + tl.arange(0, block))[None, :]
        tl.store(to[:, None] + place, entry, mask=take)
        chosen += tl.sum(take.to(tl.int32), 1)
        tied += tl.sum(ties_here.to(tl.int32), 1)
    for begin in range(0, k, slots):
        slot = begin + tl.arange(0, slots)
        left = (slot < k)[None, :] & (slot[None, :] >= wanted[:, None]) & (token < tokens)[:, None]
        tl.store(to[:, None] + slot[None, :], tl.full((rows, slots), -1, tl.int32), mask=left)


def index_topk(
    q: Tensor, weights: Tensor, pages: Tensor, table: Tensor, positions: Tensor, cu_seqlens: Tensor, ratio: int, k: int
) -> Tensor:
    tokens, heads, size = q.shape
    sequences, most = cu_seqlens.shape[0] - 1, pages.shape[1] * table.shape[1]
    scores, ids = q.new_empty((tokens, most), dtype=torch.float32), q.new_empty((tokens, k), dtype=torch.int32)
    q, weights, pages, table, positions, cu_seqlens = (
        t.contiguous() for t in (q, weights, pages, table, positions, cu_seqlens)
    )
    launch(
        _score_block, (tokens, triton.cdiv(most, ENTRIES)), q, weights, pages, table, positions, cu_seqlens, scores,
        heads, size, sequences, *pages.shape[:2], table.shape[1], ratio, most,
        rows=HEADS, width=max(int(triton.next_power_of_2(size)), 16), block=ENTRIES,
    )  # fmt: skip
    launch(
        _select_tokens, (triton.cdiv(tokens, TOKENS),), scores, positions, cu_seqlens, ids, tokens, sequences, ratio, most, k,
        rows=TOKENS, block=SCORES, slots=64,
    )  # fmt: skip
    return ids


def _index_topk(signature: Signature) -> Support:
    if signature["cu_seqlens"].shape[0] < 2:
        return no("shape", "there are no sequences")
    return calls.index_topk(signature, ACTIVATIONS)


KERNELS = (Kernel("index_topk", "triton", index_topk, _index_topk),)
