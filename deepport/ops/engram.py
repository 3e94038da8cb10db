"""Engram: conditional memory addressed by hashed n-grams of tokens (arXiv 2601.07372)."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional

from deepport import formats
from deepport.formats import accumulation
from deepport.op import operator
from deepport.ragged import segments, sequence_of_row
from deepport.spec import EXACT, FLOATS, ROUNDED_ONCE, Case, Cost, Tolerance, case, nbytes, normal


def hash_arguments(
    g: Generator,
    lengths: tuple[int, ...],
    layers: int,
    orders: int,
    heads: int,
    boundary: int | None,
    vocabulary: int,
    largest: int = 400,
) -> dict[str, Any]:
    """`largest`: no modulus is larger, nor less than an eighth of it."""
    total = sum(lengths)
    moduli = torch.randint(largest // 8, largest, (layers, orders, heads), generator=g)
    return {
        "ids": torch.randint(0, vocabulary, (total + 1,), generator=g),
        "history": torch.randint(-1, vocabulary, (len(lengths), orders), generator=g),
        "cu_seqlens": torch.tensor([0, *lengths]).cumsum(0).int(),
        "multipliers": torch.randint(-(2**63), 2**63 - 1, (layers, orders + 1), generator=g) | 1,
        "moduli": moduli,
        "offsets": moduli.flatten(1).cumsum(1).view_as(moduli) - moduli,
        "pad": 2,
        "boundary": boundary,
        "dead": torch.rand(total + 1, generator=g) < 0.1 if boundary is None else None,
    }


def _hash_cases() -> Iterator[Case]:
    for lengths in ((1,), (1, 1, 1), (0, 9, 2, 30), (0,)):
        for boundary in (None, 0):
            yield case(hash_arguments, lengths=lengths, layers=2, orders=2, heads=3, boundary=boundary, vocabulary=7)
    yield case(hash_arguments, lengths=(40,), layers=1, orders=3, heads=8, boundary=None, vocabulary=99092)


@operator(
    cost=lambda ids, history, cu_seqlens, multipliers, moduli, offsets, pad, boundary=None, dead=None: Cost(
        3.0 * ids.numel() * moduli.numel(), nbytes(ids, history) + 8.0 * ids.numel() * moduli.numel()
    ),
    cases=_hash_cases,
    tolerance=EXACT,
    fake=lambda ids, history, cu_seqlens, multipliers, moduli, offsets, pad, boundary=None, dead=None: ids.new_empty(
        (moduli.shape[0], ids.shape[0], moduli.shape[1] * moduli.shape[2])
    ),
)
def engram_hash(
    ids: Tensor, history: Tensor, cu_seqlens: Tensor, multipliers: Tensor, moduli: Tensor, offsets: Tensor,
    pad: int, boundary: int | None = None, dead: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Rows of the memory tables: `((t_0 m_0) xor (t_1 m_1) xor ... xor (t_{n-1} m_{n-1})) mod p + offset`, n = 2 ... N.

    `t_j` is the token j places back, or `pad` where that place is before the start, and from the first dead token, or
    boundary back of the token itself, on: what lies behind it is never looked at. int64 arithmetic wraps; the remainder has
    the modulus's sign.

    ids [T] int64, compressed token ids; history [B, N-1] int64, the tokens before each sequence's first new one, the latest
    last, -1 before the start and for dead tokens; cu_seqlens [B+1] int32; multipliers [L, N]; moduli and offsets
    [L, N-1, heads]: per layer, order (2 first) and head; pad, and boundary (a token that ends the look-back, itself seen as
    pad; None for none) are compressed ids; dead [T] bool or None. A dead token itself sees pad only.
    Returns [L, T, (N-1)*heads] int64; padding's are left open. The same tokens give the same rows in chunks, one by one, or at
    once.
    """
    orders = multipliers.shape[1] - 1
    if dead is not None:
        ids = torch.where(dead, -1, ids)
    sequence = sequence_of_row(cu_seqlens, ids.shape[0]).clamp(max=history.shape[0] - 1)
    place = torch.arange(ids.shape[0], device=ids.device) - cu_seqlens[sequence]
    stop = ids < 0
    mixed = torch.where(stop, pad, ids) * multipliers[:, :1]
    blocks = []
    for back in range(1, orders + 1):
        inside = place >= back
        earlier = torch.where(
            inside, ids[(torch.arange(len(ids), device=ids.device) - back).clamp(min=0)],
            history[sequence, (place - back).clamp(-orders, -1)],
        )  # fmt: skip
        stop = stop | (earlier < 0) | (earlier == (-1 if boundary is None else boundary))
        mixed = mixed ^ (torch.where(stop, pad, earlier) * multipliers[:, back : back + 1])
        blocks.append(torch.remainder(mixed[..., None], moduli[:, None, back - 1]) + offsets[:, None, back - 1])
    return torch.cat(blocks, -1)


def gather_arguments(
    g: Generator, rows: int, width: int, shape: tuple[int, ...], dtype: torch.dtype, format: str
) -> dict[str, Any]:
    table = normal(g, rows, width, dtype=dtype)
    data, scale = (table, None) if format == formats.PLAIN else formats.encode(table, format)
    ids = torch.randint(0, rows, shape, generator=g)
    return {"rows": data, "ids": ids, "scale": scale, "format": format, "dtype": dtype}


def _gather_cases() -> Iterator[Case]:
    for shape in ((0, 4), (1, 1), (7, 16)):
        for dtype in FLOATS:
            for format in (formats.PLAIN, "fp8_e4m3:1x32", "int8:row", "mxfp4"):
                yield case(gather_arguments, rows=50, width=64, shape=shape, dtype=dtype, format=format)


@operator(
    cost=lambda rows, ids, scale=None, format=formats.PLAIN, dtype=torch.float32: Cost(
        0.0,
        nbytes(ids)
        + ids.numel()
        * (nbytes(rows, scale) / max(rows.shape[0], 1) + rows.shape[1] * _packing(format) * dtype.itemsize),
    ),
    cases=_gather_cases,
    tolerance=EXACT,
    fake=lambda rows, ids, scale=None, format=formats.PLAIN, dtype=torch.float32: ids.new_empty(
        (*ids.shape, rows.shape[1] * _packing(format)), dtype=dtype
    ),
    differentiable=("rows",),
    home="ids",
)
def engram_gather(
    rows: Tensor,
    ids: Tensor,
    scale: Tensor | None = None,
    format: str = formats.PLAIN,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """`rows[ids]`, dequantised on the way.

    rows: [R, D] values in a format whose blocks lie within a row; ids [...] int64. Where the table lies on another device
    than the ids, the ids' device serves and the result is there. Returns [..., D] in `dtype`. Raises IndexError for an id
    outside the table. Differentiable for plain tables; duplicate ids add up.
    """
    if format != formats.PLAIN and formats.parse(format).rows != 1:
        raise ValueError(
            f"engram_gather: a block of {format} spans several rows; use one of 1 row, such as fp8_e4m3:1x32"
        )
    at = ids.flatten().to(rows.device)
    if at.numel() and (at.min() < 0 or at.max() >= rows.shape[0]):
        raise IndexError(f"engram_gather: an id lies outside the table's {rows.shape[0]} rows")
    picked = rows.view(torch.uint8)[at].view(rows.dtype) if rows.element_size() == 1 else rows[at]
    factor = (
        None
        if scale is None
        else scale.view(torch.uint8)[at].view(scale.dtype)
        if scale.element_size() == 1
        else scale[at]
    )
    found = formats.decode(picked, factor, format, dtype).to(ids.device)
    return found.view(*ids.shape, rows.shape[1] * _packing(format))


def _packing(format: str) -> int:
    """Values in one stored element."""
    return 1 if format == formats.PLAIN else formats.parse(format).packing


def gate_arguments(g: Generator, tokens: int, n: int, width: int, zero: str, dtype: torch.dtype) -> dict[str, Any]:
    key = normal(g, tokens, n, width, dtype=dtype)
    key[:1] = 0  # a dot product of exactly zero, where the conventions differ
    return {
        "hidden": normal(g, tokens, n, width, dtype=dtype),
        "key": key,
        "value": normal(g, tokens, width, dtype=dtype),
        "w_h": 1 + normal(g, n, width, scale=0.1),
        "w_k": 1 + normal(g, n, width, scale=0.1),
        "eps": 1e-6,
        "clamp": 1e-6,
        "zero": zero,
    }


def _gate_cases() -> Iterator[Case]:
    for tokens, n, width in ((0, 4, 16), (1, 4, 64), (9, 2, 33)):
        for zero in ("half", "copysign", "positive"):
            for dtype in FLOATS:
                yield case(gate_arguments, tokens=tokens, n=n, width=width, zero=zero, dtype=dtype)


@operator(
    cost=lambda hidden, key, value, w_h, w_k, eps, clamp, zero: Cost(
        9.0 * hidden.numel(), 3 * nbytes(hidden) + nbytes(value, w_h, w_k)
    ),
    cases=_gate_cases,
    tolerance=Tolerance("three float32 sums of C terms, a square root and a sigmoid, rounded once", rms=ROUNDED_ONCE),
    fake=lambda hidden, key, value, w_h, w_k, eps, clamp, zero: hidden.new_empty(hidden.shape),
    differentiable=("hidden", "key", "value", "w_h", "w_k"),
)
def engram_gate(
    hidden: Tensor, key: Tensor, value: Tensor, w_h: Tensor, w_k: Tensor, eps: float, clamp: float, zero: str
) -> Tensor:
    """`sigmoid(sign(d) sqrt(max(|d|, clamp))) * value` with `d = rms(hidden; w_h) . rms(key; w_k) / sqrt(C)`, per stream.

    Implementations differ where d is exactly 0, and `zero` names whose convention holds: `half` (sign 0, so the gate is
    1/2: the official demo, qwen4_exp), `copysign` (the sign bit of d: TileKernels' kernel), `positive` (vLLM). The gradient
    through the clamp is 0 where |d| < clamp.

    hidden, key [T, n, C]; value [T, C]; w_h, w_k [n, C] float32. Returns [T, n, C] in hidden's dtype, *without* the residual.
    """
    wide = accumulation(hidden.dtype)
    h, k = hidden.to(wide), key.to(wide)
    norm_h = torch.rsqrt(h.square().mean(-1, keepdim=True) + eps) * w_h.to(wide)
    norm_k = torch.rsqrt(k.square().mean(-1, keepdim=True) + eps) * w_k.to(wide)
    d = (h * norm_h * k * norm_k).sum(-1, keepdim=True) / hidden.shape[-1] ** 0.5
    gate = torch.sigmoid(_sign(d.detach(), zero) * d.abs().clamp(min=clamp).sqrt())
    return (gate * value.to(wide)[:, None]).to(hidden.dtype)


def _sign(d: Tensor, zero: str) -> Tensor:
    if zero == "half":
        return d.sign()
    if zero == "copysign":
        return torch.where(torch.signbit(d), -1.0, 1.0)
    if zero == "positive":
        return torch.where(d < 0, -1.0, 1.0)
    raise ValueError(f"engram_gate: no convention for zero is called {zero!r}; there are: half, copysign, positive")


def conv_arguments(
    g: Generator,
    lengths: tuple[int, ...],
    kernel: int,
    dilation: int,
    dtype: torch.dtype,
    n: int = 2,
    width: int = 8,
) -> dict[str, Any]:
    total = sum(lengths)
    return {
        "gated": normal(g, total + 1, n, width, dtype=dtype),
        "w_norm": 1 + normal(g, n, width, scale=0.1),
        "w_conv": normal(g, n * width, kernel, dtype=dtype),
        "state": normal(g, len(lengths) + 1, (kernel - 1) * dilation, n * width),
        "slots": torch.randperm(len(lengths) + 1, generator=g)[: len(lengths)].int(),
        "cu_seqlens": torch.tensor([0, *lengths]).cumsum(0).int(),
        "dilation": dilation,
        "eps": 1e-6,
    }


def _conv_cases() -> Iterator[Case]:
    for lengths in ((1,), (1, 1, 1), (0, 9, 2, 30), (0,)):
        for kernel, dilation in ((4, 3), (3, 1), (1, 2)):
            for dtype in FLOATS:
                yield case(conv_arguments, lengths=lengths, kernel=kernel, dilation=dilation, dtype=dtype)


def _conv_cost(
    gated: Tensor,
    w_norm: Tensor,
    w_conv: Tensor,
    state: Tensor,
    slots: Tensor,
    cu_seqlens: Tensor,
    dilation: int,
    eps: float,
) -> Cost:
    touched = 2 * slots.shape[0] * nbytes(state) / max(state.shape[0], 1)
    return Cost(2.0 * gated.numel() * (w_conv.shape[1] + 4), 2 * nbytes(gated) + nbytes(w_norm, w_conv) + touched)


_CONV = Tolerance("a float32 normalisation and a sum of `kernel` products, rounded once", rms=ROUNDED_ONCE)


@operator(
    cost=_conv_cost,
    cases=_conv_cases,
    tolerance=_CONV,
    fake=lambda gated, w_norm, w_conv, state, slots, cu_seqlens, dilation, eps: (
        gated.new_empty(gated.shape),
        state.new_empty(state.shape),
    ),
    differentiable=("gated", "w_norm", "w_conv"),
)
def engram_conv(
    gated: Tensor,
    w_norm: Tensor,
    w_conv: Tensor,
    state: Tensor,
    slots: Tensor,
    cu_seqlens: Tensor,
    dilation: int,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """`gated + silu(sum_j w_conv[:, K-1-j] rms(gated; w_norm)[t - j * dilation])`: a short causal depthwise convolution.

    gated [T, n, C]; w_norm [n, C] float32; w_conv [n*C, K] of any dtype; state [S, (K-1)*dilation, n*C] float32, of which
    `slots [B]` are these sequences' rows: the *normed* rows of the tokens before, the latest last, zeros before the start;
    cu_seqlens [B+1] int32. Returns (out [T, n, C] in gated's dtype, zeros for padding rows; the new state, without a
    gradient).
    """
    wide = accumulation(gated.dtype)
    x = gated.to(wide)
    normed = (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * w_norm.to(wide)).flatten(1)
    new_state, outputs = state.clone(), []
    for b, low, high in segments(cu_seqlens):
        rows = torch.cat((state[slots[b]].to(wide), normed[low:high]))
        mixed = functional.conv1d(rows.T, w_conv.to(wide)[:, None], dilation=dilation, groups=rows.shape[1])
        outputs.append((x[low:high].flatten(1) + functional.silu(mixed.T)).to(gated.dtype))
        new_state[slots[b]] = rows[len(rows) - state.shape[1] :].detach().to(state.dtype)
    rest = gated.shape[0] - sum(len(o) for o in outputs)
    outputs.append(gated.new_zeros((rest, normed.shape[1])))
    return torch.cat(outputs).view(gated.shape), new_state


@operator(
    cost=_conv_cost,
    cases=_conv_cases,
    tolerance=_CONV,
    fake=lambda gated, w_norm, w_conv, state, slots, cu_seqlens, dilation, eps: gated.new_empty(gated.shape),
    mutates=("state",),
)
def engram_conv_(
    gated: Tensor,
    w_norm: Tensor,
    w_conv: Tensor,
    state: Tensor,
    slots: Tensor,
    cu_seqlens: Tensor,
    dilation: int,
    eps: float,
) -> Tensor:
    """`engram_conv`, writing the new state over the old."""
    out, new_state = engram_conv.reference(gated, w_norm, w_conv, state, slots, cu_seqlens, dilation, eps)
    state.copy_(new_state)
    return out
