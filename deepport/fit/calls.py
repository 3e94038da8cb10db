"""What a call of an operator is made of, wherever it is computed: types and shapes that kernels of every backend ask for.

`of` are the types of activations that a kernel takes. What one backend's kernel asks beside it, that backend says.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from deepport.fit import FLOATS, dtypes, floats, shapes
from deepport.kernel import Signature, Support, no

Types = Sequence[torch.dtype]

_REFUSED = no("attribute", "the reference refuses such a call")


def rms_norm(signature: Signature, of: Types = FLOATS) -> Support:
    return (
        floats(signature, "x", of=of)
        and dtypes(signature, weight=torch.float32)
        and shapes(signature, x="... D", weight="D")
    )


def rotary(signature: Signature, of: Types = FLOATS) -> Support:
    known = floats(signature, "x", of=of) and dtypes(signature, cos=torch.float32, sin=torch.float32)
    if known := known and shapes(signature, x="T ... D", cos="T R", sin="T R"):
        channels, pairs = signature["x"].shape[-1], signature["cos"].shape[-1]
        return known if 2 * pairs <= channels else no("shape", f"{channels} channels are not {pairs} pairs")
    return known


def rotary_angles(signature: Signature) -> Support:
    return dtypes(signature, positions=torch.int64, frequencies=torch.float32) and shapes(
        signature, positions="T", frequencies="R"
    )


def swiglu(signature: Signature, of: Types = FLOATS) -> Support:
    return floats(signature, "gate", "up", of=of) and shapes(signature, gate="...", up="...")


def sparse_attention(signature: Signature, of: Types = FLOATS) -> Support:
    wide, narrow = torch.int64, torch.int32
    compressed = [t for t in (signature["compressed_pages"], signature["compressed_table"]) if t is not None]
    if compressed and (signature["ratio"] < 1 or any(0 in t.shape for t in compressed)):
        return _REFUSED
    return floats(signature, "q", "window_pages", "compressed_pages", of=of) and dtypes(
        signature, window_table=narrow, compressed_table=narrow, indices=narrow, sink=torch.float32, positions=wide,
        cu_seqlens=narrow,
    ) and shapes(
        signature, q="T H D", window_pages="P page D", window_table="B M", compressed_pages="C entries D",
        compressed_table="B N", indices="T K", sink="H", positions="T", cu_seqlens="B+1",
    )  # fmt: skip


def index_topk(signature: Signature, of: Types = FLOATS) -> Support:
    if signature["ratio"] < 1:
        return _REFUSED
    return (
        floats(signature, "q", "pages", of=of)
        and dtypes(signature, weights=torch.float32, table=torch.int32, positions=torch.int64, cu_seqlens=torch.int32)
        and shapes(signature, q="T H D", weights="T H", pages="P page D", table="B M", positions="T", cu_seqlens="B+1")
    )


def write_pages(signature: Signature) -> Support:
    pages, values = signature["pages"].dtype, signature["values"].dtype
    if pages != values:
        return no("dtype", f"pages are {pages} and values {values}; the kernel copies")
    return dtypes(signature, table=torch.int32, positions=torch.int64, cu_seqlens=torch.int32) and shapes(
        signature, pages="P page D", table="B M", values="T D", positions="T", cu_seqlens="B+1"
    )


def compress_kv(signature: Signature, of: Types = FLOATS) -> Support:
    if signature["ratio"] < 1 or (signature["overlap"] and signature["kv"].shape[-1] % 2):
        return _REFUSED
    return (
        floats(signature, "kv", "gate", of=of)
        and dtypes(signature, position_bias=torch.float32, state=torch.float32)
        and dtypes(signature, slots=torch.int32, positions=torch.int64, cu_seqlens=torch.int32)
        and shapes(
            signature, kv="T C", gate="T C", position_bias="ratio C", state="S (1+overlap)*ratio 2*C", slots="B",
            positions="T", cu_seqlens="B+1",
        )
    )  # fmt: skip


def engram_hash(signature: Signature) -> Support:
    whole = ("ids", "history", "multipliers", "moduli", "offsets")
    return (
        dtypes(signature, **dict.fromkeys(whole, torch.int64))
        and dtypes(signature, cu_seqlens=torch.int32, dead=torch.bool)
        and shapes(
            signature, ids="T", dead="T", moduli="L N H", offsets="L N H", multipliers="L N+1", history="B N",
            cu_seqlens="B+1",
        )
    )  # fmt: skip


def engram_gate(signature: Signature, of: Types = FLOATS) -> Support:
    return (
        floats(signature, "hidden", "key", "value", of=of)
        and dtypes(signature, w_h=torch.float32, w_k=torch.float32)
        and shapes(signature, hidden="T n C", key="T n C", value="T C", w_h="n C", w_k="n C")
    )


def engram_conv(signature: Signature, of: Types = FLOATS) -> Support:
    return (
        floats(signature, "gated", of=of)
        and floats(signature, "w_conv", of=of)
        and dtypes(signature, w_norm=torch.float32, state=torch.float32)
        and dtypes(signature, slots=torch.int32, cu_seqlens=torch.int32)
        and shapes(
            signature, gated="T n C", w_norm="n C", w_conv="n*C K", state="S (K-1)*dilation n*C", slots="B",
            cu_seqlens="B+1",
        )
    )  # fmt: skip


def mhc_pre(signature: Signature, of: Types = FLOATS) -> Support:
    return _collapse(signature, of) and shapes(signature, streams="T n C", fn="(2+n)*n n*C", scale="3", base="(2+n)*n")


def mhc_head(signature: Signature, of: Types = FLOATS) -> Support:
    return _collapse(signature, of) and shapes(signature, streams="T n C", fn="n n*C", scale="1", base="n")


def _collapse(signature: Signature, of: Types) -> Support:
    return floats(signature, "streams", of=of) and dtypes(
        signature, fn=torch.float32, scale=torch.float32, base=torch.float32
    )


def mhc_post(signature: Signature, of: Types = FLOATS) -> Support:
    return (
        floats(signature, "y", "streams", of=of)
        and dtypes(signature, post=torch.float32, comb=torch.float32)
        and shapes(signature, y="T C", streams="T n C", post="T n", comb="T n n")
    )


def route(signature: Signature, of: Types = FLOATS) -> Support:
    return (
        floats(signature, "logits", of=of)
        and dtypes(signature, bias=torch.float32)
        and dtypes(signature, table=torch.int64, input_ids=torch.int64)
        and shapes(signature, logits="T E", bias="E", table="V k", input_ids="T")
    )


def moe_dispatch(signature: Signature) -> Support:
    return dtypes(signature, ids=torch.int32) and shapes(signature, x="T C", ids="T k")


def moe_combine(signature: Signature, of: Types = FLOATS) -> Support:
    return (
        floats(signature, "y", of=of)
        and dtypes(signature, weights=torch.float32)
        and dtypes(signature, inverse=torch.int32, ids=torch.int32)
        and shapes(signature, weights="T k", y="R C", inverse="T k", ids="T k")
    )
