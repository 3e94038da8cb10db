"""DeepSeek-V4 attention: shared-KV multi-query attention over a window and selected compressed entries."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor

from deepport.formats import accumulation
from deepport.op import operator
from deepport.ops.cache import ragged, shuffled_table
from deepport.ragged import page_rows, read_pages, segments
from deepport.spec import FLOATS, Case, Cost, Tolerance, case, nbytes, normal

_BLOCK = 64
"""Rows a reference computes at once: its scratch is _BLOCK x heads x entries, however long the prefill. And a number of columns
that is a multiple of every matrix product's tile."""


def _capacity(pages: Tensor, table: Tensor) -> int:
    return table.shape[1] * pages.shape[1]


def _index_topk_cost(
    q: Tensor, weights: Tensor, pages: Tensor, table: Tensor, positions: Tensor, cu_seqlens: Tensor, ratio: int, k: int
) -> Cost:
    entries = _capacity(pages, table)
    keys = table.shape[0] * entries * pages.shape[-1] * pages.element_size()
    return Cost(2.0 * q.numel() * entries, nbytes(q, weights, positions) + keys + 4.0 * q.shape[0] * k)


def index_arguments(
    g: Generator,
    lengths: tuple[int, ...],
    first: tuple[int, ...],
    k: int,
    tied: bool,
    dtype: torch.dtype,
    heads: int = 8,
    size: int = 16,
    page: int = 8,
    ratio: int = 4,
) -> dict[str, Any]:
    positions, cu_seqlens = ragged(lengths, first, padding=1)
    max_pages = max(f + n for f, n in zip(first, lengths, strict=True)) // ratio // page + 1
    pages = normal(g, len(lengths) * max_pages, page, size, dtype=dtype)
    return {
        "q": normal(g, positions.shape[0], heads, size, dtype=dtype),
        "weights": normal(g, positions.shape[0], heads, scale=0.1),
        "pages": torch.ones_like(pages) if tied else pages,
        "table": shuffled_table(g, len(lengths), max_pages),
        "positions": positions,
        "cu_seqlens": cu_seqlens,
        "ratio": ratio,
        "k": k,
    }


def _index_topk_cases() -> Iterator[Case]:
    for lengths, first in (((1,), (0,)), ((1, 1), (3, 130)), ((70, 0, 9), (0, 5, 41)), ((0,), (0,))):
        for k in (4, 64):
            for dtype in FLOATS:
                yield case(index_arguments, lengths=lengths, first=first, k=k, tied=False, dtype=dtype)
    yield case(index_arguments, lengths=(50,), first=(20,), k=8, tied=True, dtype=torch.float32)


@operator(
    cost=_index_topk_cost,
    cases=_index_topk_cases,
    tolerance=Tolerance(
        "a choice, not a number: judged by regret, the score lost against the float64 choice, at most twice the scorer's error",
    ),
    fake=lambda q, weights, pages, table, positions, cu_seqlens, ratio, k: q.new_empty(
        (q.shape[0], k), dtype=torch.int32
    ),
)
def index_topk(
    q: Tensor, weights: Tensor, pages: Tensor, table: Tensor, positions: Tensor, cu_seqlens: Tensor, ratio: int, k: int
) -> Tensor:
    """The `k` best compressed entries of each query by `score[t, s] = sum_h weights[t, h] relu(q[t, h] . key[s])`.

    Entry `s` is a candidate of the token at position p where `s < (p + 1) // ratio`. DeepSeek-V4, section 2.3.1,
    equations 13-17.

    q [T, H, D]; weights [T, H], already times `H^-0.5 D^-0.5`; keys in pages [P, page, D], table [B, max_pages] int32.
    Returns [T, k] int32: the chosen ids ascending, then -1. Ties go to the lowest id; a NaN score is never chosen; where
    there are fewer than k candidates all are chosen. Padding's rows are left open.
    """
    chosen = torch.full((q.shape[0], k), -1, dtype=torch.int32, device=q.device)
    wide = accumulation(q.dtype)
    for b, low, high in segments(cu_seqlens, _BLOCK):
        ready = (positions[low:high] + 1) // ratio
        keys = _padded(read_pages(pages, table, b, torch.arange(int(ready.max()), device=q.device)).to(wide))
        entries = torch.arange(len(keys), device=q.device)
        products = torch.einsum("thd,sd->ths", q[low:high].to(wide), keys).relu()
        scores = torch.einsum("ths,th->ts", products, weights[low:high].to(wide))
        # torch.topk does not break ties by the lowest id; ascending, NaN comes last, even behind a score of -inf.
        best, ids = scores.neg().masked_fill(entries >= ready[:, None], torch.nan).sort(stable=True)
        none = len(entries)  # sorts behind every id
        ids = ids.masked_fill(best.isnan(), none)[:, :k].sort().values
        chosen[low:high, : ids.shape[1]] = ids.masked_fill(ids == none, -1).int()
    return chosen


def _padded(keys: Tensor) -> Tensor:
    """Keys, and zeros up to a multiple of the block: a product's last columns may be summed in another order than the others,
    and equal keys would not tie."""
    return torch.nn.functional.pad(keys, (0, 0, 0, -len(keys) % _BLOCK))


def attention_arguments(
    g: Generator,
    lengths: tuple[int, ...],
    first: tuple[int, ...],
    scope: str,
    sink: bool,
    dtype: torch.dtype,
    heads: int = 4,
    size: int = 32,
    page: int = 8,
    window: int = 12,
    k: int = 6,
    ratio: int = 0,
    ring: bool = False,
) -> dict[str, Any]:
    """`scope`: window only, `selected` entries at ratio 4, or `all` entries at ratio 16, unless another ratio is given.

    `ring`: window pages are used again once the window has left them, as the model's cache does.
    """
    ratio = 0 if scope == "window" else ratio or {"selected": 4, "all": 16}[scope]
    positions, cu_seqlens = ragged(lengths, first, padding=1)
    ends = [f + n for f, n in zip(first, lengths, strict=True)]
    b, logical = len(lengths), max(ends) // page + 1
    physical = min(logical, (window - 1 + max(lengths)) // page + 2) if ring else logical
    arguments: dict[str, Any] = {
        "q": normal(g, positions.shape[0], heads, size, dtype=dtype),
        "window_pages": normal(g, b * physical, page, size, dtype=dtype),
        "window_table": shuffled_table(g, b, physical)[:, torch.arange(logical) % physical],
        "compressed_pages": None,
        "compressed_table": None,
        "indices": None,
        "sink": normal(g, heads) if sink else None,
        "positions": positions,
        "cu_seqlens": cu_seqlens,
        "scale": size**-0.5,
        "window_size": window,
        "ratio": ratio,
    }
    if ratio:
        pages = max(ends) // ratio // page + 1
        arguments["compressed_pages"] = normal(g, b * pages, page, size, dtype=dtype)
        arguments["compressed_table"] = shuffled_table(g, b, pages)
    if scope == "selected":
        arguments["indices"] = _random_selection(g, (positions + 1) // ratio, k)
    return arguments


def _random_selection(g: Generator, ready: Tensor, k: int) -> Tensor:
    """`[T, k] int32`: up to k distinct ids below `ready`, ascending, then -1; some rows have none."""
    rows = torch.full((len(ready), k), -1, dtype=torch.int32)
    for t, n in enumerate(ready.tolist()):
        ids = torch.randperm(n, generator=g)[: int(torch.randint(0, k + 1, (), generator=g))]
        rows[t, : len(ids)] = ids.sort().values
    return rows


def _attention_cases() -> Iterator[Case]:
    for lengths, first in (((1,), (0,)), ((1, 1, 1), (11, 12, 63)), ((70, 0, 9), (0, 5, 41)), ((0,), (0,))):
        for scope in ("window", "selected", "all"):
            for dtype in FLOATS:
                yield case(attention_arguments, lengths=lengths, first=first, scope=scope, sink=True, dtype=dtype)
    yield case(attention_arguments, lengths=(13,), first=(9,), scope="all", sink=False, dtype=torch.float32)


def _attention_cost(
    q: Tensor, window_pages: Tensor, window_table: Tensor, compressed_pages: Tensor | None, compressed_table: Tensor | None,
    indices: Tensor | None, sink: Tensor | None, positions: Tensor, cu_seqlens: Tensor,
    scale: float, window_size: int, ratio: int,
) -> Cost:  # fmt: skip
    """An upper bound: every query sees as full a window as its table holds, and every entry its table can hold or that was
    selected.

    No entry is read twice.
    """
    if compressed_pages is None or compressed_table is None:
        entries, shared = 0, 0
    else:
        entries = _capacity(compressed_pages, compressed_table)
        shared = compressed_table.shape[0] * entries
        if indices is not None:
            entries, shared = min(entries, indices.shape[1]), min(shared, indices.numel())
    row, window = (
        window_pages.shape[-1] * window_pages.element_size(),
        min(window_size, _capacity(window_pages, window_table)),
    )
    window_rows = q.shape[0] + (cu_seqlens.shape[0] - 1) * (window - 1)
    return Cost(
        4.0 * q.numel() * (window + entries), 2 * nbytes(q) + nbytes(indices, sink) + row * (window_rows + shared)
    )


def _attention_fake(
    q: Tensor, window_pages: Tensor, window_table: Tensor, compressed_pages: Tensor | None, compressed_table: Tensor | None,
    indices: Tensor | None, sink: Tensor | None, positions: Tensor, cu_seqlens: Tensor,
    scale: float, window_size: int, ratio: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return q.new_empty(q.shape), q.new_empty(q.shape[:2], dtype=accumulation(q.dtype))


@operator(
    cost=_attention_cost,
    cases=_attention_cases,
    tolerance=Tolerance("one softmax in float32 over at most window + k keys and one weighted sum, rounded once"),
    fake=_attention_fake,
    differentiable=("q", "window_pages", "compressed_pages", "sink"),
)
def sparse_attention(
    q: Tensor, window_pages: Tensor, window_table: Tensor, compressed_pages: Tensor | None, compressed_table: Tensor | None,
    indices: Tensor | None, sink: Tensor | None, positions: Tensor, cu_seqlens: Tensor,
    scale: float, window_size: int, ratio: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`o = sum_s p_s kv_s`, `p = softmax(scale q . kv)` over a window and compressed entries; keys are also the values.

    The token at position p sees positions `p - window_size + 1 .. p` and, of the compressed entries, those in its row of
    `indices`, or all `s < (p + 1) // ratio` where indices is None. `exp(sink[h])` is added to the denominator only.
    DeepSeek-V4, section 2.3.

    q [T, H, D]; window_pages [P, page, D] with window_table [B, max_pages] int32, which hold the new tokens too;
    compressed_pages and compressed_table likewise, or None; indices [T, K] int32, -1 for none; sink [H] float32 or None;
    positions, cu_seqlens as in `deepport.ragged`. What a token does not see has no effect on it, if it is finite.
    Returns (o [T, H, D] in q's dtype, lse [T, H] float32: the natural log of the denominator without the sink). A row that
    sees nothing, and padding, has o = 0 and lse = -inf. Only o has a gradient.
    """
    wide = accumulation(q.dtype)
    outputs, lses = [], []
    for b, low, high in segments(cu_seqlens, _BLOCK):
        here = positions[low:high]
        scopes = [_window_scope(window_pages, window_table, b, here, window_size)]
        if compressed_pages is not None and compressed_table is not None:
            chosen = None if indices is None else indices[low:high]
            scopes.append(_compressed_scope(compressed_pages, compressed_table, b, here, chosen, ratio))
        o, lse = _attend(q[low:high].to(wide), scopes, sink, scale)
        outputs.append(o.to(q.dtype))
        lses.append(lse)
    rest = q.shape[0] - sum(len(o) for o in outputs)
    outputs.append(q.new_zeros((rest, *q.shape[1:])))
    lses.append(q.new_full((rest, q.shape[1]), -torch.inf, dtype=wide))
    return torch.cat(outputs), torch.cat(lses).detach()


def _window_scope(pages: Tensor, table: Tensor, b: int, positions: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Keys `[S, D]` that some of these tokens sees, and `[T, S]` which sees which."""
    entries = torch.arange(max(int(positions.min()) - size + 1, 0), int(positions.max()) + 1, device=positions.device)
    behind = positions[:, None] - entries
    visible = (behind >= 0) & (behind < size)
    return _unseen(read_pages(pages, table, b, entries), visible), visible


def _compressed_scope(
    pages: Tensor, table: Tensor, b: int, positions: Tensor, indices: Tensor | None, ratio: int
) -> tuple[Tensor, Tensor]:
    """Keys `[S, D]` for all tokens or, selected, `[T, K, D]` for each, and which is visible."""
    if indices is not None:
        visible = indices >= 0
        # Where nothing is selected the table may hold anything; row 0 is there.
        rows = page_rows(table, pages.shape[1], b, indices.clamp(min=0).long()).masked_fill(~visible, 0)
        keys = pages.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, rows.shape)
        return keys.masked_fill(~visible[..., None], 0.0), visible  # it may be unwritten memory: 0 * NaN is NaN
    ready = (positions + 1) // ratio
    entries = torch.arange(int(ready.max()), device=positions.device)
    visible = entries < ready[:, None]
    return _unseen(read_pages(pages, table, b, entries), visible), visible


def _unseen(keys: Tensor, visible: Tensor) -> Tensor:
    """Keys `[S, D]` of all tokens; where one is not finite, `[T, S, D]` without those that a token does not see.

    A weight of 0 hides a finite key only.
    """
    if bool(keys.detach().sum().isfinite()):  # a sum that overflows only costs time
        return keys
    return keys.expand(len(visible), *keys.shape).masked_fill(~visible[..., None], 0.0)


def _attend(q: Tensor, scopes: list[tuple[Tensor, Tensor]], sink: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """One softmax over several scopes of keys; q in the accumulation dtype."""
    subscripts = ["sd" if keys.dim() == 2 else "tsd" for keys, _ in scopes]
    values = [keys.to(q.dtype) for keys, _ in scopes]
    scores = [
        (torch.einsum(f"thd,{subscript}->ths", q, kv) * scale).masked_fill(~visible[:, None], -torch.inf)
        for subscript, kv, (_, visible) in zip(subscripts, values, scopes, strict=True)
    ]
    logits = torch.cat(scores, -1)
    lse = logits.detach().logsumexp(-1)
    extra = torch.full_like(lse, -torch.inf) if sink is None else sink.to(q.dtype).expand_as(lse)
    peak = torch.maximum(lse.detach(), extra.detach()).nan_to_num(neginf=0.0)
    weights = (logits - peak[..., None]).exp()
    total = weights.sum(-1) + (extra - peak).exp()
    probabilities = weights / total.masked_fill(total == 0, 1.0)[..., None]
    parts = probabilities.split([s.shape[-1] for s in scores], -1)
    outputs = [torch.einsum(f"ths,{u}->thd", p, kv) for u, p, kv in zip(subscripts, parts, values, strict=True)]
    return sum(outputs[1:], outputs[0]), lse
