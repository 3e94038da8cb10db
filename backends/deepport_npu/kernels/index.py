"""The choice of compressed entries, by the vendor's lightning indexer."""

from __future__ import annotations

import torch
from torch import Tensor

from deepport.kernel import YES, Kernel, Signature, Support, no
from deepport.ragged import sequence_of_row
from deepport_npu import capability
from deepport_npu.kernels.chip import Chip, every, laid

_VENDOR = "npu_lightning_indexer"
_BLOCK = 64
"""Tokens whose listed keys are held at once, and a multiple of every product's tile."""
_ENTRIES = 1 << 18
"""Entries that are scored at once where all are."""
_NONE = 2**31 - 1
"""Sorts behind every id."""


def kernels(chip: Chip) -> tuple[Kernel, ...]:
    return (Kernel("index_topk", _VENDOR, index_topk, lambda s: _supports(chip, s)),)


def index_topk(
    q: Tensor, weights: Tensor, pages: Tensor, table: Tensor, positions: Tensor, cu_seqlens: Tensor, ratio: int, k: int
) -> Tensor:
    """The vendor lists twice as many entries as are asked for, and the k best of them are found again in float32.

    Its own choice is not this operator's: it rounds weights to q's dtype, and ties go to no certain id (vllm-ascend#15053). Every
    token is a sequence of its own to it, whose length is the number of entries it may see: `sparse_mode` 3 is causal over raw
    positions. Where what was left out might tie with what was taken, or a score is no number, all entries are scored.
    """
    import torch_npu

    sequence = sequence_of_row(cu_seqlens, q.shape[0])
    real = sequence < table.shape[0]
    tables = table[sequence.clamp(max=table.shape[0] - 1)]
    ready = ((positions + 1) // ratio).masked_fill(~real, 0).int()
    listed, _ = torch_npu.npu_lightning_indexer(
        q[:, None].contiguous(), pages[:, :, None], weights[:, None].to(q.dtype).contiguous(),
        actual_seq_lengths_key=ready, block_table=tables, layout_query="BSND", layout_key="PA_BSND",
        sparse_count=_count(k), sparse_mode=0,
    )  # fmt: skip
    chosen, certain = _blocks(pages, k, _BLOCK, q, weights, tables, ready, listed[:, 0, 0])
    if not bool(certain.all()):
        rows = (~certain).nonzero()[:, 0]
        most = int(ready.max())
        whole = torch.arange(most, device=q.device, dtype=torch.int32).expand(len(rows), -1)
        again = (t.index_select(0, rows) for t in (q, weights, tables, ready))
        chosen[rows], _ = _blocks(pages, k, max(_ENTRIES // most, 1), *again, whole)
    return chosen


def _count(k: int) -> int:
    """How many entries the vendor is to list: twice k, or the next number that it takes; 2k where it takes none."""
    bound = next(iter(capability.table()[_VENDOR].values())).attributes["sparse_count"]
    return next((n for n in (2 * k, *bound.others) if n >= 2 * k and bound.takes(n)), 2 * k)


def _blocks(pages: Tensor, k: int, size: int, *tokens: Tensor) -> tuple[Tensor, Tensor]:
    """`_best` of at most `size` tokens at once."""
    parts = zip(*(t.split(size) for t in tokens), strict=True)
    chosen, certain = zip(*(_best(pages, k, *part) for part in parts), strict=True)
    return torch.cat(chosen), torch.cat(certain)


def _best(
    pages: Tensor, k: int, q: Tensor, weights: Tensor, tables: Tensor, ready: Tensor, listed: Tensor
) -> tuple[Tensor, Tensor]:
    """`[T, k]`, the best of the listed by score and then id, in order of ids; and `[T]`, whether nothing else could be."""
    ids = listed.masked_fill((listed < 0) | (listed >= ready[:, None]), _NONE).sort().values
    # A product's last columns may be summed in another order than the others, and equal keys would not tie.
    width = max(ids.shape[1], k)
    ids = torch.nn.functional.pad(ids, (0, width + -width % _BLOCK - ids.shape[1]), value=_NONE)
    there = ids != _NONE
    scores, sizes = _scores(pages, q, weights, tables, ids.masked_fill(~there, 0).long())
    whole, finite = there.sum(1) == ready, (scores.isfinite() | ~there).all(1)
    ids = ids.masked_fill(scores.isnan(), _NONE)
    order = scores.neg().masked_fill(ids == _NONE, torch.inf).sort(stable=True).indices
    # A score of -inf is chosen, one that is no number is not: both sort last.
    order = order.gather(1, (ids.gather(1, order) == _NONE).int().sort(stable=True).indices)[:, :k]
    taken = ids.gather(1, order)
    last = scores.gather(1, order).masked_fill(taken == _NONE, -torch.inf)[:, -1]
    least = scores.masked_fill(~there, torch.inf).amin(1)
    # Two scores as the vendor sees them are off by half a rounding of the weights each.
    slack = torch.finfo(q.dtype).eps * sizes.masked_fill(~there, 0.0).amax(1)
    chosen = taken.sort().values
    return chosen.masked_fill(chosen == _NONE, -1), whole | (finite & (last > least + slack))


def _scores(pages: Tensor, q: Tensor, weights: Tensor, tables: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """`[T, S]` each: the listed entries' scores in float32, and the sums of magnitudes behind them."""
    page = pages.shape[1]
    rows = tables.gather(1, ids // page).long() * page + ids % page
    rows = rows.clamp(0, pages.shape[0] * page - 1)  # of entries that are not there a table may say anything
    keys = pages.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, rows.shape).float()
    products = torch.bmm(q.float(), keys.transpose(1, 2)).relu()
    wide = weights.float()[:, None]
    return torch.bmm(wide, products)[:, 0], torch.bmm(wide.abs(), products)[:, 0]


def _supports(chip: Chip, call: Signature) -> Support:
    q, weights, pages, table = call["q"], call["weights"], call["pages"], call["table"]
    tokens, heads, size = q.shape
    if weights.dtype not in (torch.float32, q.dtype):
        return no("dtype", f"weights are {weights.dtype}; scores are computed again in float32")
    if not table.shape[0]:
        return no("shape", "there are no sequences")
    return every(
        chip.takes(
            _VENDOR, query=laid(q.dtype, tokens, 1, heads, size), key=laid(pages.dtype, *pages.shape[:2], 1, size),
            weights=laid(q.dtype, tokens, 1, heads), actual_seq_lengths_key=laid(torch.int32, tokens),
            block_table=laid(table.dtype, tokens, table.shape[1]), layout_query="BSND", layout_key="PA_BSND",
            sparse_count=_count(call["k"]), sparse_mode=0,
        ),
        YES if pages.contiguous else no("layout", "pages are not contiguous, and a cache is not copied"),
    )  # fmt: skip
