"""Mutants of attention."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from deepport.conformance.mutants.mutant import Given, Mutant, answered, asked, differentiated, rounded, written
from deepport.ops import sparse_attention
from deepport.ragged import page_rows, segments


def mutants() -> Iterator[Mutant]:
    yield from _asked_attention()
    yield from _answered_attention()
    yield from _written_attention()
    yield from _gradients()


def _asked_attention() -> Iterator[Mutant]:
    def changing(name: str, fault: str, change: Callable[[Given], Given]) -> Mutant:
        return asked(sparse_attention, name, fault, change)

    yield changing(
        "window_one_short", "sees window_size - 1 positions", lambda g: {"window_size": g["window_size"] - 1}
    )
    yield changing("window_one_long", "sees window_size + 1 positions", lambda g: {"window_size": g["window_size"] + 1})
    yield changing("ignores_the_sink", "the sink is not in the denominator", lambda g: {"sink": None})
    yield changing("sink_twice", "exp(sink) is added twice", lambda g: {"sink": _plus(g["sink"], math.log(2))})
    yield changing("unscaled", "scores lack the factor D^-0.5", lambda g: {"scale": 1.0})
    yield changing("scaled_twice", "scores have the factor D^-0.5 twice", lambda g: {"scale": g["scale"] ** 2})
    yield changing(
        "drops_the_last_entry", "the last selected entry is not seen", lambda g: {"indices": _shorter(g["indices"])}
    )
    yield changing("reads_minus_one", "-1 is taken for entry 0", lambda g: {"indices": _zeroed(g["indices"])})
    yield changing("compressed_late", "the token at p sees compressed entries s < p // ratio", _late)
    yield changing(
        "off_by_one_page", "window keys are read from the page after theirs",
        lambda g: {"window_table": g["window_table"].roll(-1, 1)},
    )  # fmt: skip
    yield changing(
        "keys_of_the_first", "all sequences read the first one's window",
        lambda g: {"window_table": g["window_table"][:1].expand_as(g["window_table"]).contiguous()},
    )  # fmt: skip
    yield changing(
        "window_only", "compressed entries are ignored",
        lambda g: {"compressed_pages": None, "compressed_table": None, "indices": None},
    )  # fmt: skip


def _plus(sink: Tensor | None, amount: float) -> Tensor | None:
    return None if sink is None else sink + amount


def _shorter(indices: Tensor | None) -> Tensor | None:
    return None if indices is None else torch.cat((indices[:, :-1], torch.full_like(indices[:, -1:], -1)), 1)


def _zeroed(indices: Tensor | None) -> Tensor | None:
    return None if indices is None else indices.clamp(min=0)


def _late(given: Given) -> Given:
    """All visible entries but those that the token itself completes, as a selection."""
    positions, ratio = given["positions"], given["ratio"]
    if given["compressed_pages"] is None or given["indices"] is not None:
        return {}
    ready = positions // ratio
    entries = torch.arange(int(ready.max()) if len(ready) else 0)
    return {"indices": torch.where(entries < ready[:, None], entries, -1).int()}


def _answered_attention() -> Iterator[Mutant]:
    def changing(name: str, fault: str, change: Callable[[list[Tensor], Given], Any]) -> Mutant:
        return answered(sparse_attention, name, fault, change)

    def without_sink(results: list[Tensor], given: Given) -> Any:
        o, lse = results
        return [o, lse if given["sink"] is None else torch.logaddexp(lse, given["sink"].to(lse.dtype))]

    def sink_has_a_value(results: list[Tensor], given: Given) -> Any:
        """The sink's share is not lost but goes to the first key in memory."""
        o, lse = results
        if given["sink"] is None:
            return results
        share = (given["sink"] - lse.float()).sigmoid()
        return [(o.float() + share[..., None] * given["window_pages"][0, 0].float()).to(o.dtype), lse]

    yield changing("sink_in_lse", "the lse contains the sink", without_sink)
    yield changing("sink_has_a_value", "the sink is a key like others, with the value in row 0", sink_has_a_value)
    yield changing("lse_in_bits", "the lse is a logarithm to base 2", lambda r, g: [r[0], r[1] * math.log2(math.e)])
    yield changing(
        "lse_in_bfloat16", "the lse is rounded to bfloat16", lambda r, g: [r[0], rounded(r[1], torch.bfloat16)]
    )
    yield changing("dead_rows_are_nan", "a row that sees nothing is 0 / 0", _not_a_number)


def _not_a_number(results: list[Tensor], given: Given) -> list[Tensor]:
    o, lse = results
    return [o.masked_fill(lse.isneginf()[..., None], torch.nan), lse]


Blend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Output `[T, H, D]` of queries and `[T, S, D]` keys, of which `[T, S]` are visible."""


def _attending(blend: Callable[..., Tensor]) -> Callable[..., Any]:
    """sparse_attention whose output is `blend(q, keys, visible, scale, sink)`; its lse is the reference's."""
    reference = sparse_attention.reference

    def run(*arguments: Any) -> Any:
        given = sparse_attention.bind(arguments)
        o, lse = reference(*arguments)
        parts = [o.new_zeros(o.shape)]
        for b, low, high in segments(given["cu_seqlens"]):
            keys, visible = _seen(given, b, low, high)
            parts[0][low:high] = blend(given["q"][low:high].float(), keys, visible, given["scale"], given["sink"]).to(
                o.dtype
            )
        return parts[0], lse

    return run


def _seen(given: Given, b: int, low: int, high: int) -> tuple[Tensor, Tensor]:
    positions = given["positions"][low:high]
    behind = torch.arange(given["window_size"])
    window = (positions[:, None] - behind).clamp(min=-1)
    keys = [_read_chosen(given["window_pages"], given["window_table"], b, window)]
    visible = [window >= 0]
    if given["compressed_pages"] is not None:
        ready = (positions + 1) // given["ratio"]
        entries = torch.arange(int(ready.max())).expand(high - low, -1)
        chosen = (
            torch.where(entries < ready[:, None], entries, -1)
            if given["indices"] is None
            else given["indices"][low:high]
        )
        keys.append(_read_chosen(given["compressed_pages"], given["compressed_table"], b, chosen))
        visible.append(chosen >= 0)
    return torch.cat(keys, 1).masked_fill(~torch.cat(visible, 1)[..., None], 0.0), torch.cat(visible, 1)


def _read_chosen(pages: Tensor, table: Tensor, b: int, chosen: Tensor) -> Tensor:
    """`[T, K, D]` keys of the chosen entries; of -1 the table is not read."""
    rows = torch.zeros(chosen.shape, dtype=torch.int64)
    rows[chosen >= 0] = page_rows(table, pages.shape[1], b, chosen[chosen >= 0].long())
    return pages.flatten(0, 1)[rows]


def _logits(q: Tensor, keys: Tensor, visible: Tensor, scale: float) -> Tensor:
    return (torch.einsum("thd,tsd->ths", q, keys.float()) * scale).masked_fill(~visible[:, None], -torch.inf)


def _extra(sink: Tensor | None, like: Tensor) -> Tensor:
    return torch.full(like.shape[:2], -torch.inf) if sink is None else sink.expand(like.shape[:2])


def _without_peak(q: Tensor, keys: Tensor, visible: Tensor, scale: float, sink: Tensor | None) -> Tensor:
    weights = _logits(q, keys, visible, scale).exp()
    total = weights.sum(-1) + _extra(sink, weights).exp()
    return torch.einsum("ths,tsd->thd", weights / total.masked_fill(total == 0, 1.0)[..., None], keys.float())


def _online(rescale: bool, narrow: bool) -> Callable[..., Tensor]:
    """Softmax over blocks of keys with a running maximum; `narrow` rounds the blocks' weights to the keys' dtype."""

    def blend(q: Tensor, keys: Tensor, visible: Tensor, scale: float, sink: Tensor | None) -> Tensor:
        logits = _logits(q, keys, visible, scale)
        peak = torch.full(logits.shape[:2], -torch.inf)
        total, out = torch.zeros(logits.shape[:2]), torch.zeros_like(q)
        for block, kv in zip(logits.split(16, -1), keys.split(16, 1), strict=True):
            new = torch.maximum(peak, block.amax(-1))
            shift = new.nan_to_num(neginf=0.0)
            weights, fade = (block - shift[..., None]).exp(), (peak - shift).exp()
            total = total * fade + weights.sum(-1)
            weights = rounded(weights, kv.dtype) if narrow else weights
            out = out * (fade[..., None] if rescale else 1.0) + torch.einsum("ths,tsd->thd", weights, kv.float())
            peak = new
        total = total + (_extra(sink, logits) - peak.nan_to_num(neginf=0.0)).exp()
        return out / total.masked_fill(total == 0, 1.0)[..., None]

    return blend


def _written_attention() -> Iterator[Mutant]:
    yield written(
        sparse_attention,
        "without_peak",
        "exponentials are taken without subtracting the largest",
        _attending(_without_peak),
    )
    yield written(
        sparse_attention, "forgets_to_rescale", "a new maximum does not rescale the sum so far",
        _attending(_online(rescale=False, narrow=False)),
    )  # fmt: skip
    yield Mutant(
        "online_softmax", "sparse_attention", "none", _attending(_online(rescale=True, narrow=False)),
        equivalent="a running softmax over blocks is the softmax",
    )  # fmt: skip
    yield Mutant(
        "weights_on_the_matrix_unit", "sparse_attention", "none", _attending(_online(rescale=True, narrow=True)),
        equivalent="matrix units take both factors in the tensors' dtype: softmax weights that are rounded to it are usual",
    )  # fmt: skip


def _gradients() -> Iterator[Mutant]:
    attention = sparse_attention.reference

    def replaced(change: Callable[[Given], Given]) -> Callable[..., Any]:
        def forward(**given: Any) -> Any:
            return attention(**given | change(given))

        return forward

    def keys_only(**given: Any) -> Any:
        """Values are held constant: o = p(kv) . stop(kv)."""
        o, lse = attention(**given)
        frozen = attention(**given | {"q": given["q"].detach(), "sink": _frozen(given["sink"])})[0]
        return o - frozen + frozen.detach(), lse

    yield differentiated(
        sparse_attention, "no_sink_gradient", "the sink has no gradient",
        replaced(lambda g: {"sink": _frozen(g["sink"])}),
    )  # fmt: skip
    yield differentiated(
        sparse_attention, "no_key_gradient", "pages have no gradient",
        replaced(lambda g: {"window_pages": g["window_pages"].detach(), "compressed_pages": _frozen(g["compressed_pages"])}),
    )  # fmt: skip
    yield differentiated(sparse_attention, "query_gradient_only", "what depends on pages alone is missing", keys_only)


def _frozen(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.detach()
