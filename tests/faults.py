"""Third-party backends on CPU tensors: kernels of their own, of which some may be wrong. Sources for the fixture `install`."""

from __future__ import annotations

_BACKEND = """
import torch
from torch import Tensor
from deepport import formats, ops
from deepport.backend import Device, Probe
from deepport.kernel import YES, Kernel, no

# A kernel that calls its operator's reference would be told so: these have kept the functions.
attend, experts, index, pick, turn = (
    o.reference for o in (ops.sparse_attention, ops.moe_experts, ops.index_topk, ops.route, ops.rotary)
)

def plain(signature):
    return YES if signature["format"] == formats.PLAIN else no("format", "plain weights only")

{kernels}

class Acme:
    name, device_type, simulates = "acme", "cpu", "cuda"

    def probe(self):
        return Probe((Device("Acme One"),), {{"acme": "7"}})

    def start(self):
        from deepport.runtime import HostRuntime
        return HostRuntime()

    def kernels(self):
        return [{listed}]

backend = Acme()
"""

HONEST = {
    "rms_norm": """
def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    wide = x.float()
    y = wide / (wide.pow(2).sum(-1, keepdim=True) / x.shape[-1] + eps).sqrt()
    return (y if weight is None else y * weight).to(x.dtype)
""",
    "linear": """
def linear(x: Tensor, w: Tensor, scale: Tensor | None = None, format: str = "plain", wide: bool = False) -> Tensor:
    half = x.shape[-1] // 2
    x, w, dtype = x.float(), w.float(), x.dtype
    return (x[..., :half] @ w[:, :half].T + x[..., half:] @ w[:, half:].T).to(torch.float32 if wide else dtype)
""",
    "swiglu": """
def swiglu(gate: Tensor, up: Tensor, limit: float | None = None) -> Tensor:
    g, u = gate.float(), up.float()
    if limit is not None:
        g, u = g.clamp(max=limit), u.clamp(-limit, limit)
    return (g / (1 + (-g).exp()) * u).to(gate.dtype)
""",
}

_ATTENTION = """
def sparse_attention(
    q: Tensor, window_pages: Tensor, window_table: Tensor, compressed_pages: Tensor | None, compressed_table: Tensor | None,
    indices: Tensor | None, sink: Tensor | None, positions: Tensor, cu_seqlens: Tensor,
    scale: float, window_size: int, ratio: int,
) -> tuple[Tensor, Tensor]:
    return attend(
        q, window_pages, window_table, compressed_pages, compressed_table, indices, sink, positions, cu_seqlens, scale,
        window_size{change}, ratio,
    )
"""

_EXPERTS = """
def moe_experts(
    x: Tensor, ids: Tensor, weights: Tensor, w13: Tensor, w2: Tensor, limit: float | None,
    w13_scale: Tensor | None = None, w2_scale: Tensor | None = None, format: str = "plain",
) -> Tensor:
    {body}
"""

FAULTY = {
    "window": _ATTENTION.format(change=" - 1"),
    "bf16 sums": """
def linear(x: Tensor, w: Tensor, scale: Tensor | None = None, format: str = "plain", wide: bool = False) -> Tensor:
    y = torch.zeros(*x.shape[:-1], w.shape[0], dtype=torch.bfloat16)
    for low in range(0, x.shape[-1], 8):
        part = x[..., low : low + 8].float() @ w[:, low : low + 8].float().T
        y = (y + part.bfloat16())
    return y.to(torch.float32 if wide else x.dtype)
""",
    "stale": """
_last = {}

def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    wide = x.float()
    y = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    y = (y if weight is None else weight * y).to(x.dtype)
    return _last.setdefault(x.shape, y).clone()
""",
    "rounded": """
def swiglu(gate: Tensor, up: Tensor, limit: float | None = None) -> Tensor:
    g, u = gate.float(), up.float()
    if limit is not None:
        g, u = g.clamp(max=limit), u.clamp(-limit, limit)
    return (torch.nn.functional.silu(g).bfloat16() * u).to(gate.dtype)
""",
    "dropped expert": _EXPERTS.format(
        body="return experts(x, ids.masked_fill(ids == 2, -1), weights, w13, w2, limit, w13_scale, w2_scale, format)"
    ),
    "selection": """
def index_topk(
    q: Tensor, weights: Tensor, pages: Tensor, table: Tensor, positions: Tensor, cu_seqlens: Tensor, ratio: int, k: int
) -> Tensor:
    return index(-q, weights, pages, table, positions, cu_seqlens, ratio, k)
""",
    "ignored bias": """
def route(
    logits: Tensor, bias: Tensor | None, k: int, scoring: str, scale: float,
    table: Tensor | None = None, input_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    return pick(logits, None, k, scoring, scale, table, input_ids)
""",
    "scale": """
def mhc_post(y: Tensor, streams: Tensor, post: Tensor, comb: Tensor) -> Tensor:
    mixed = comb.float().transpose(1, 2) @ streams.float()
    return (1.001 * post[..., None] * y.float()[:, None] + mixed).to(streams.dtype)
""",
}

INDEXER = """
def rotary(x: Tensor, cos: Tensor, sin: Tensor, inverse: bool = False) -> Tensor:
    y = turn(x, cos, sin, inverse)
    indexer = x.dim() == 3 and x.shape[1:] == (HEADS, 16)
    return y * torch.linspace(0.9, 1.1, 16).to(x.dtype) if indexer else y
"""
"""Wrong for an indexer's queries of HEADS heads only, and so for nothing but choices."""

_PLAIN_ONLY = ("linear", "moe_experts")


def acme(*sources: str) -> str:
    """A backend `acme` with these kernels, each named after its operator."""
    names = [source.partition("def ")[2].partition("(")[0] for source in sources]
    listed = ", ".join(f"Kernel({n!r}, 'fast', {n}{', plain' if n in _PLAIN_ONLY else ''})" for n in names)
    return _BACKEND.format(kernels="\n".join(sources), listed=listed)
