"""Kernels of third parties that lie, each in its own way, and some that are honest. Sources for `backend_source`."""

NUMBERS = """
@kernel("linear", lambda s: YES if s["format"] == "plain" else no("format", "plain weights only"))
def bf16_accumulation(
    x: Tensor, w: Tensor, scale: Tensor | None = None, format: str = "plain", wide: bool = False
) -> Tensor:
    y = torch.zeros(*x.shape[:-1], w.shape[0], dtype=torch.bfloat16)
    for k in range(0, x.shape[-1], 32):
        y += (x[..., k : k + 32].float() @ w[:, k : k + 32].float().T).bfloat16()
    return y.to(torch.float32 if wide else x.dtype)

attend = ops.sparse_attention.reference

@kernel("sparse_attention")
def short_window(
    q: Tensor, window_pages: Tensor, window_table: Tensor, compressed_pages: Tensor | None,
    compressed_table: Tensor | None, indices: Tensor | None, sink: Tensor | None, positions: Tensor, cu_seqlens: Tensor,
    scale: float, window_size: int, ratio: int,
) -> tuple[Tensor, Tensor]:
    return attend(
        q, window_pages, window_table, compressed_pages, compressed_table, indices, sink, positions, cu_seqlens,
        scale, window_size - 1, ratio,
    )
"""

PLACES = """
gather = ops.engram_gather.reference

def in_int32(index, row):
    '''Rows of `row` bytes, addressed in 32 bits.'''
    return ((index.int() * row) // row).long()

@kernel("engram_gather")
def int32_gather(
    rows: Tensor, ids: Tensor, scale: Tensor | None = None, format: str = "plain", dtype: torch.dtype = torch.float32
) -> Tensor:
    wrapped = in_int32(ids, rows.shape[1] * rows.element_size())
    if ids.numel() and (ids.min() < 0 or ids.max() >= rows.shape[0]):
        raise IndexError("outside the table")
    return gather(rows, wrapped.clamp(0, max(rows.shape[0] - 1, 0)), scale, format, dtype)

write = ops.write_pages_.reference

@kernel("write_pages_", mutates=("pages",))
def int32_write(pages: Tensor, table: Tensor, values: Tensor, positions: Tensor, cu_seqlens: Tensor) -> None:
    page = pages.shape[1] * pages.shape[2] * pages.element_size()
    wrapped = in_int32(table, page).clamp(0, pages.shape[0] - 1).int()
    write(pages, wrapped, values, positions, cu_seqlens)

@kernel("swiglu")
def contiguous_only(gate: Tensor, up: Tensor, limit: float | None = None) -> Tensor:
    dtype, dense = gate.dtype, torch.empty(gate.shape).stride()
    gate, up = gate.as_strided(gate.shape, dense).float(), up.as_strided(up.shape, dense).float()
    if limit is not None:
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return (torch.nn.functional.silu(gate) * up).to(dtype)
"""

MANNERS = """
def normed(x, weight, eps):
    wide = x.float()
    y = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (y if weight is None else weight * y).to(x.dtype).contiguous()

before, kept, static = {}, {}, {}

@kernel("rms_norm")
def stale(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    result = before.get(x.shape)
    before[x.shape] = normed(x, weight, eps)
    return before[x.shape].clone() if result is None else result.to(x.dtype)

@kernel("rms_norm")
def remembered(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    return kept.setdefault((x.shape, x.dtype, weight is None), normed(x, weight, eps)).clone()

@kernel("rms_norm")
def one_buffer(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    return static.setdefault((x.shape, x.dtype), torch.empty_like(x).contiguous()).copy_(normed(x, weight, eps))

@kernel("rms_norm")
def last_row_unwritten(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    y = torch.empty(x.shape, dtype=x.dtype)
    y[:-1] = normed(x, weight, eps)[:-1]
    return y

@kernel("rms_norm")
def writes_input(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    y = normed(x, weight, eps)
    x.copy_(y)
    return y

@kernel("rms_norm")
def one_token(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    y = normed(x, weight, eps)
    return -y if x.shape[0] == 1 else y

@kernel("rms_norm")
def no_tokens(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    return normed(x, weight, eps) if x.numel() else x.new_empty(0)

@kernel("rms_norm")
def unsteady(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    y = normed(x, weight, eps)
    return torch.where(torch.rand(y.shape) < 0.5, y, torch.nextafter(y, torch.zeros_like(y)))

@kernel("rms_norm")
def sees_the_guard(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    y = normed(x, weight, eps)
    return y if x.storage_offset() else y * 1.5

@kernel("rms_norm")
def borrowed(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    return ops.rms_norm.reference(x, weight, eps)

@kernel("rms_norm")
def promises(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    raise NotImplementedError("rms_norm is not implemented on Acme One")

asked = set()

def fickle_supports(signature):
    call = str(signature)
    if call in asked:
        return no("shape", "not again")
    asked.add(call)
    return YES

@kernel("swiglu", fickle_supports)
def fickle(gate: Tensor, up: Tensor, limit: float | None = None) -> Tensor:
    if limit is not None:
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return (torch.nn.functional.silu(gate.float()) * up.float()).to(gate.dtype)

@kernel("rotary", lambda signature: signature["xs"])
def cannot_tell(x: Tensor, cos: Tensor, sin: Tensor, inverse: bool = False) -> Tensor:
    return x.clone()

@kernel("rotary")
def asked_in_vain(x: Tensor, cos: Tensor, sin: Tensor, inverse: bool = False) -> Tensor:
    return x.clone()

@kernel("block_linear", lambda s: YES if s["format"] == "plain" else no("format", "plain weights only"))
def another_operator(x: Tensor, w: Tensor, scale: Tensor | None = None, format: str = "plain") -> Tensor:
    return ops.linear(x, w[0], scale, format)
"""

SLOPPY = """
@kernel("linear", lambda s: YES if s["format"] == "plain" else no("format", "plain weights only"))
def sloppy(x: Tensor, w: Tensor, scale: Tensor | None = None, format: str = "plain", wide: bool = False) -> Tensor:
    return (x.float() @ w.float().T * 1.02).to(torch.float32 if wide else x.dtype)
"""

MEDDLING = """
from dataclasses import replace
from deepport import ops
from deepport.conformance import gates, judge
ops.linear.tolerance = replace(ops.linear.tolerance, rms=1e9, max=1e9)
ops.linear.reference = lambda x, w, scale=None, format="plain", wide=False: x @ w.T * 1.02
fine = lambda *args, **kwargs: [gates.Gate(gate="G0", metric="bits", status="pass")]
gates.numeric = gates.exact = judge.judge = fine
"""

EASY = """
import torch
from deepport.ops import dense
dense.normal = lambda g, *shape, dtype=torch.float32, scale=1.0: torch.zeros(shape, dtype=dtype)
"""

TRACE = """
import os
with open({path!r}, "a") as file:
    judge = "MKL_CBWR" in os.environ
    file.write("judge\\n" if judge else "worker\\n" if "DEEPPORT_CHECK" in os.environ else "")
"""

HONEST = """
from torch.nn import functional

plain = lambda s: YES if s["format"] == "plain" else no("format", "plain weights only")

@kernel("linear", lambda s: no("attribute", "torch rounds its sums") if s["wide"] else plain(s))
def gemm(x: Tensor, w: Tensor, scale: Tensor | None = None, format: str = "plain", wide: bool = False) -> Tensor:
    return functional.linear(x, w)

@kernel("rms_norm")
def rows(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    wide = x.float()
    y = wide / (wide.pow(2).sum(-1, keepdim=True) / x.shape[-1] + eps).sqrt()
    return (y if weight is None else y * weight).to(x.dtype).contiguous()

@kernel("swiglu")
def gated(gate: Tensor, up: Tensor, limit: float | None = None) -> Tensor:
    g, u = gate.float(), up.float()
    if limit is not None:
        g, u = g.clamp(max=limit), u.clamp(-limit, limit)
    return (g / (1 + (-g).exp()) * u).to(gate.dtype).contiguous()

@kernel("moe_experts", plain)
def composed(
    x: Tensor, ids: Tensor, weights: Tensor, w13: Tensor, w2: Tensor, limit: float | None,
    w13_scale: Tensor | None = None, w2_scale: Tensor | None = None, format: str = "plain",
) -> Tensor:
    rows, offsets, inverse = ops.moe_dispatch(x, ids, w13.shape[0])
    gate, up = ops.grouped_linear(rows, w13, w13_scale, format, offsets).chunk(2, -1)
    y = ops.grouped_linear(ops.swiglu(gate, up, limit), w2, w2_scale, format, offsets)
    return ops.moe_combine(y, weights, inverse, ids)
"""
