"""The lightning indexer (DeepSeek-V4, section 2.3): scores of compressed entries, and the k best of each token."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from deepport.fit import dtypes, floats, shapes
from deepport.kernel import Kernel, Signature, Support, no
from deepport_triton.kernels.attention import entries
from deepport_triton.kernels.elementwise import ACTIVATIONS
from deepport_triton.kernels.ragged import sequence_of
from deepport_triton.launch import launch


@triton.jit
def _ready(token, positions, cu_seqlens, sequences, ratio):
    """How many compressed entries there are for a token; none for padding."""
    present = token < tl.load(cu_seqlens + sequences)
    return (tl.load(positions + token, mask=present, other=-1) + 1) // ratio


@triton.jit
def _score_block(
    q, weights, pages, table, positions, cu_seqlens, scores, heads, size, sequences, page, columns, ratio, most,
    rows: tl.constexpr, width: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    token, begin = tl.program_id(0).to(tl.int64), tl.program_id(1) * block
    ready = _ready(token, positions, cu_seqlens, sequences, ratio)
    if begin < ready:
        sequence = sequence_of(token, cu_seqlens, sequences, 128).to(tl.int64)
        entry, channel = begin + tl.arange(0, block), tl.arange(0, width)
        keys = entries(pages, table, sequence, columns, page, entry, entry < ready, size, width)
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
def _at_least(scores, ready, least, block: tl.constexpr):
    """How many scores are in the order of `least` or above."""
    found = tl.zeros((1,), tl.int32)
    for begin in range(0, ready, block):
        at = begin + tl.arange(0, block)
        order = _order(tl.load(scores + at, mask=at < ready, other=0.0), at < ready)
        found += tl.sum((order >= least).to(tl.int32), 0)
    return tl.sum(found, 0)


@triton.jit
def _select_token(
    scores, positions, cu_seqlens, ids, sequences, ratio, most, k, block: tl.constexpr, slots: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    ready = _ready(token, positions, cu_seqlens, sequences, ratio)
    mine, to = scores + token * most, ids + token * k
    wanted = tl.minimum(_at_least(mine, ready, 1, block), k)
    # The order of the last one that is chosen, bit by bit from the highest.
    last = tl.full((1,), 0, tl.int64)
    for bit in range(32):
        higher = last + (tl.full((1,), 1, tl.int64) << (31 - bit))
        last = tl.where(_at_least(mine, ready, higher, block) >= wanted, higher, last)
    ties = wanted - _at_least(mine, ready, last + 1, block)
    # Ascending; of those that tie with the last, the lowest.
    chosen, tied = tl.zeros((1,), tl.int32), tl.zeros((1,), tl.int32)
    for begin in range(0, ready, block):
        at = begin + tl.arange(0, block)
        order = _order(tl.load(mine + at, mask=at < ready, other=0.0), at < ready)
        ties_here = (order == last) & (order > 0)
        rank = tied + tl.cumsum(ties_here.to(tl.int32), 0)
        take = ((order > last) | (ties_here & (rank <= ties))) & (wanted > 0)
        place = chosen + tl.cumsum(take.to(tl.int32), 0) - 1
        tl.store(to + place, at.to(tl.int32), mask=take)
        chosen += tl.sum(take.to(tl.int32), 0)
        tied += tl.sum(ties_here.to(tl.int32), 0)
    for begin in range(0, k, slots):
        slot = begin + tl.arange(0, slots)
        tl.store(to + slot, tl.full((slots,), -1, tl.int32), mask=(slot < k) & (slot >= wanted))


def index_topk(
    q: Tensor, weights: Tensor, pages: Tensor, table: Tensor, positions: Tensor, cu_seqlens: Tensor, ratio: int, k: int
) -> Tensor:
    tokens, heads, size = q.shape
    sequences, most = cu_seqlens.shape[0] - 1, pages.shape[1] * table.shape[1]
    scores, ids = q.new_empty((tokens, most), dtype=torch.float32), q.new_empty((tokens, k), dtype=torch.int32)
    q, weights, pages, table, positions, cu_seqlens = (
        t.contiguous() for t in (q, weights, pages, table, positions, cu_seqlens)
    )
    block = 32
    launch(
        _score_block, (tokens, triton.cdiv(most, block)), q, weights, pages, table, positions, cu_seqlens, scores,
        heads, size, sequences, pages.shape[1], table.shape[1], ratio, most,
        rows=16, width=max(int(triton.next_power_of_2(size)), 16), block=block,
    )  # fmt: skip
    launch(
        _select_token, (tokens,), scores, positions, cu_seqlens, ids, sequences, ratio, most, k, block=1024, slots=64
    )
    return ids


def _index_topk(signature: Signature) -> Support:
    if signature["ratio"] < 1:
        return no("attribute", "the reference refuses such a call")
    if signature["cu_seqlens"].shape[0] < 2:
        return no("shape", "there are no sequences")
    return (
        floats(signature, "q", "pages", of=ACTIVATIONS)
        and dtypes(signature, weights=torch.float32, table=torch.int32, positions=torch.int64, cu_seqlens=torch.int32)
        and shapes(signature, q="T H D", weights="T H", pages="P page D", table="B M", positions="T", cu_seqlens="B+1")
    )


KERNELS = (Kernel("index_topk", "triton", index_topk, _index_topk),)
