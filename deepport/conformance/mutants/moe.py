"""Mutants of the experts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from deepport import formats
from deepport.conformance.mutants.dense import narrow_sum
from deepport.conformance.mutants.formats import misread
from deepport.conformance.mutants.mutant import Given, Mutant, answered, asked, differentiated, rounded, written
from deepport.op import Operator
from deepport.ops import grouped_linear, moe_combine, moe_dispatch, moe_experts, swiglu


def mutants() -> Iterator[Mutant]:
    yield from _dispatch()
    yield from _combine()
    yield from _grouped()
    yield from _swiglu()
    yield from _experts()
    yield from _gradients()


def _dispatch() -> Iterator[Mutant]:
    yield asked(
        moe_dispatch, "dropped_to_the_first", "-1 is taken for expert 0", lambda g: {"ids": g["ids"].clamp(min=0)}
    )
    yield asked(
        moe_dispatch, "dropped_to_the_last", "-1 wraps to the last expert",
        lambda g: {"ids": torch.where(g["ids"] < 0, g["experts"] - 1, g["ids"])},
    )  # fmt: skip
    yield answered(moe_dispatch, "unstable", "an expert's copies come in reverse order", _unstable)
    yield answered(moe_dispatch, "inverse_not_inverted", "inverse is the order of the sort", _uninverted)
    yield answered(
        moe_dispatch, "counts_for_offsets", "offsets are not summed up", lambda r, g: [r[0], _counts(r[1]), r[2]]
    )
    yield answered(moe_dispatch, "copies_for_tokens", "row i is token i mod T", _copies_for_tokens)


def _unstable(results: list[Tensor], given: Given) -> Any:
    rows, offsets, inverse = results
    bounds = [*offsets.tolist(), len(rows)]
    target = torch.cat([torch.arange(low, high).flip(0) for low, high in zip([0, *bounds], bounds, strict=False)])
    return [rows[target], offsets, target[inverse.long()].int()]


def _uninverted(results: list[Tensor], given: Given) -> Any:
    rows, offsets, inverse = results
    order = inverse.flatten().long().argsort()
    return [rows, offsets, order.int().view(inverse.shape)]


def _counts(offsets: Tensor) -> Tensor:
    return torch.cat((offsets[:1], offsets.diff()))


def _copies_for_tokens(results: list[Tensor], given: Given) -> Any:
    _, offsets, inverse = results
    order = inverse.flatten().long().argsort()
    return [given["x"][order % max(len(given["x"]), 1)], offsets, inverse]


def _combine() -> Iterator[Mutant]:
    yield asked(
        moe_combine, "reads_dropped_copies", "dropped copies are summed too", lambda g: {"ids": g["ids"].clamp(min=0)}
    )
    yield asked(
        moe_combine, "unweighted", "copies are not weighted", lambda g: {"weights": torch.ones_like(g["weights"])}
    )
    yield asked(
        moe_combine, "narrow_weights", "weights are rounded to y's dtype",
        lambda g: {"weights": rounded(g["weights"], g["y"].dtype)},
    )  # fmt: skip
    yield asked(moe_combine, "drops_the_last_copy", "each token's last copy is missing", _without_last)
    yield asked(
        moe_combine, "rows_in_order", "rows are taken as they lie, without inverse",
        lambda g: {"inverse": torch.arange(g["inverse"].numel(), dtype=torch.int32).view(g["inverse"].shape)},
    )  # fmt: skip
    yield written(
        moe_combine, "sums_in_bfloat16", "the running sum is rounded to y's dtype after every copy", _narrow_combine
    )


def _without_last(given: Given) -> Given:
    ids = given["ids"].clone()
    ids[:, -1:] = -1
    return {"ids": ids}


def _narrow_combine(y: Tensor, weights: Tensor, inverse: Tensor, ids: Tensor) -> Tensor:
    total = torch.zeros(weights.shape[0], y.shape[1], dtype=y.dtype)
    for j in range(weights.shape[1]):
        dropped = ids[:, j, None] < 0
        row = y[inverse[:, j].long()].float().masked_fill(dropped, 0.0)
        total = (total.float() + row * weights[:, j, None].masked_fill(dropped, 0.0)).to(y.dtype)
    return total


def _grouped() -> Iterator[Mutant]:
    yield asked(grouped_linear, "next_expert", "each expert's rows meet the next one's matrix", _rolled)
    yield asked(grouped_linear, "skips_empty_experts", "matrices are counted by experts that have rows", _compacted)
    yield asked(grouped_linear, "drops_the_last_group", "the last expert with rows gets none", _shortened)
    yield answered(grouped_linear, "rows_behind_not_zeroed", "rows behind the last expert's hold memory", _unzeroed)
    yield written(
        grouped_linear,
        "sums_in_bfloat16",
        "the running sum is rounded to bfloat16 after every 32 terms",
        _narrow_grouped,
    )
    yield from misread(grouped_linear, "w", "scale", ("ignores_the_scale", "swaps_nibbles", "exponent_off_by_one"))


def _rolled(given: Given) -> Given:
    scale = given["scale"]
    return {"w": _take(given["w"], -1), "scale": None if scale is None else _take(scale, -1)}


def _take(t: Tensor, shift: int) -> Tensor:
    return t.view(torch.uint8).roll(shift, 0).view(t.dtype) if t.element_size() == 1 else t.roll(shift, 0)


def _compacted(given: Given) -> Given:
    offsets = given["offsets"]
    ends = offsets[1:][offsets.diff() > 0]
    if not len(ends):
        return {}
    full = torch.cat((offsets[:1], ends, ends[-1:].expand(len(offsets) - 1 - len(ends))))
    return {"offsets": full}


def _shortened(given: Given) -> Given:
    offsets = given["offsets"].clone()
    last = offsets == offsets[-1]
    offsets[last] = offsets[~last][-1] if bool((~last).any()) else offsets[0]
    return {"offsets": offsets}


def _unzeroed(results: list[Tensor], given: Given) -> Any:
    last, found = int(given["offsets"][-1]), torch.empty_like(results[0])
    found[:last] = results[0][:last]
    return found


def _narrow_grouped(x: Tensor, w: Tensor, scale: Tensor | None, format: str, offsets: Tensor) -> Tensor:
    out = x.new_zeros(x.shape[0], w.shape[1])
    plain = formats.decode(w, scale, format, x.dtype if format == formats.PLAIN else torch.float32)
    for e, (low, high) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
        out[low:high] = narrow_sum(x[low:high], plain[e])
    return out


def _swiglu() -> Iterator[Mutant]:
    yield asked(swiglu, "ignores_the_limit", "nothing is clamped", lambda g: {"limit": None})
    yield asked(swiglu, "clamps_the_gate_below", "the gate is clamped on both sides", _clamped_gate)
    yield written(swiglu, "clamps_up_above_only", "`up` is clamped from above only", _up_above)
    yield written(swiglu, "clamps_after_silu", "the gate is clamped after silu", _after_silu)
    yield written(swiglu, "rounds_twice", "silu is rounded to the dtype before the product", _rounded_silu)
    yield asked(swiglu, "swaps_gate_and_up", "silu is taken of `up`", lambda g: {"gate": g["up"], "up": g["gate"]})


def _clamped_gate(given: Given) -> Given:
    limit = given["limit"]
    return {} if limit is None else {"gate": given["gate"].clamp(min=-limit)}


def _up_above(gate: Tensor, up: Tensor, limit: float | None) -> Tensor:
    g, u = gate.float(), up.float()
    g, u = (g, u) if limit is None else (g.clamp(max=limit), u.clamp(max=limit))
    return (functional.silu(g) * u).to(gate.dtype)


def _after_silu(gate: Tensor, up: Tensor, limit: float | None) -> Tensor:
    g, u = functional.silu(gate.float()), up.float()
    g, u = (g, u) if limit is None else (g.clamp(max=limit), u.clamp(-limit, limit))
    return (g * u).to(gate.dtype)


def _rounded_silu(gate: Tensor, up: Tensor, limit: float | None) -> Tensor:
    g, u = (gate, up) if limit is None else (gate.clamp(max=limit), up.clamp(-limit, limit))
    return functional.silu(g.float()).to(gate.dtype) * u


def _experts() -> Iterator[Mutant]:
    def changing(name: str, fault: str, change: Callable[[Given], Given]) -> Mutant:
        return asked(moe_experts, name, fault, change)

    yield changing("up_half_first", "w13 holds `up` before the gate", _up_first)
    yield changing("ignores_the_limit", "the SwiGLU limit is ignored", lambda g: {"limit": None})
    yield changing("duplicates_count_once", "of duplicate ids in a row only the last counts", _deduplicated)
    yield changing("dropped_to_the_first", "-1 is taken for expert 0", lambda g: {"ids": g["ids"].clamp(min=0)})
    yield changing(
        "dropped_to_the_last", "-1 wraps to the last expert",
        lambda g: {"ids": torch.where(g["ids"] < 0, g["w13"].shape[0] - 1, g["ids"])},
    )  # fmt: skip
    yield changing("normalises_weights", "weights are normalised once more", _normalised)
    yield changing("ignores_w13_scale", "w13 is not multiplied by its scale", _without_scale)
    yield changing("drops_the_last_expert", "the last expert's tokens are lost", _without_last_expert)
    yield from misread(moe_experts, "w2", "w2_scale", ("exponent_off_by_one", "swaps_nibbles"))


def _up_first(given: Given) -> Given:
    half = given["w13"].shape[1] // 2
    scale = given["w13_scale"]
    # Where a block of scales spans both halves it stays: the fault is in the data.
    turned = scale is not None and scale.shape[1] % 2 == 0
    return {"w13": _turn(given["w13"], half), "w13_scale": _turn(scale, scale.shape[1] // 2) if turned else scale}


def _turn(t: Tensor, rows: int) -> Tensor:
    return t.view(torch.uint8).roll(rows, 1).view(t.dtype) if t.element_size() == 1 else t.roll(rows, 1)


def _deduplicated(given: Given) -> Given:
    ids = given["ids"].clone()
    for j in range(ids.shape[1] - 1):
        later = (ids[:, j + 1 :] == ids[:, j, None]).any(1)
        ids[:, j] = ids[:, j].masked_fill(later, -1)
    return {"ids": ids}


def _normalised(given: Given) -> Given:
    return {"weights": given["weights"] / given["weights"].sum(-1, keepdim=True)}


def _without_scale(given: Given) -> Given:
    scale = given["w13_scale"]
    return {} if scale is None else {"w13_scale": torch.ones_like(scale, dtype=torch.float32)}


def _without_last_expert(given: Given) -> Given:
    ids = given["ids"]
    return {"ids": ids.masked_fill(ids == ids.max(), -1)} if ids.numel() else {}


def _gradients() -> Iterator[Mutant]:
    def straight_through(**given: Any) -> Any:
        """What was clamped has a gradient all the same."""
        limit, gate, up = given["limit"], given["gate"], given["up"]
        if limit is None:
            return glu(**given)
        moved = [t + (t.clamp(low, limit) - t).detach() for t, low in ((gate, None), (up, -limit))]
        return glu(gate=moved[0], up=moved[1], limit=None)

    glu = swiglu.reference
    yield differentiated(swiglu, "straight_through", "the gradient passes the clamp", straight_through)
    yield from _frozen(moe_combine, "weights", "no_weight_gradient", "weights have no gradient")
    yield from _frozen(moe_experts, "weights", "no_router_gradient", "the router's weights have no gradient")
    yield from _frozen(moe_experts, "w13", "no_w13_gradient", "the first matrices have no gradient")
    yield from _frozen(grouped_linear, "w", "no_weight_gradient", "the matrices have no gradient")


def _frozen(operator: Operator[..., Any], argument: str, name: str, fault: str) -> Iterator[Mutant]:
    reference = operator.reference

    def forward(**given: Any) -> Any:
        return reference(**given | {argument: given[argument].detach()})

    yield differentiated(operator, name, fault, forward)
