"""The simulated fused operators beside code that others wrote for the same thing; prints the largest relative errors as JSON.

Transformers' DeepSeek-V4 where it computes it, in float32 as the operators do; loops in float64, read off the vendor's page
afresh, where it does not. Our references are not asked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from types import SimpleNamespace

import torch
from cann.ops import fused_attention, fused_dense, fused_mhc, fused_moe
from oracles.layers import deepseek_config, randomised
from torch import Tensor
from transformers.models.deepseek_v4 import modeling_deepseek_v4 as theirs

CONFIG = deepseek_config(hidden_size=32, hc_mult=4, index_n_heads=8, index_head_dim=16, num_attention_heads=4)
G = torch.Generator().manual_seed(0)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=G)


def error(got: Tensor, right: Tensor) -> float:
    return float((got.double() - right.double()).abs().max() / right.double().abs().max())


def rms_norm() -> float:
    norm = randomised(theirs.DeepseekV4RMSNorm(16, 1e-6), 1)
    x, y, rstd = draw(5, 16), torch.empty(5, 16), torch.empty(5, 1)
    fused_dense.rms_norm(x, norm.weight, 1e-6, y, rstd)
    return error(y, norm(x))


def rotary() -> float:
    x, angle = draw(1, 7, 3, 8), draw(7, 4)
    cos, sin = (torch.stack((f(angle), f(angle)), -1).flatten(-2).view(1, 7, 1, 8) for f in (torch.cos, torch.sin))
    out = torch.empty_like(x)
    fused_dense.rotary(x, cos, sin, 1, out)
    return error(
        out, theirs.apply_rotary_pos_emb(x.transpose(1, 2), angle.cos()[None], angle.sin()[None]).transpose(1, 2)
    )


def swiglu() -> float:
    experts = theirs.DeepseekV4Experts(CONFIG)
    x, out = 20 * draw(9, 12), torch.empty(9, 6)
    fused_dense.clipped_swiglu(x, None, -1, 1.0, experts.limit, 0.0, False, out)
    return error(out, experts._apply_gate(x))


def experts() -> float:
    """Dispatch, both products, the activation and the sum back, against the whole layer."""
    layer = randomised(theirs.DeepseekV4Experts(CONFIG), 2)
    x, count, k = draw(11, 32), layer.num_experts, 3
    ids = torch.stack([torch.randperm(count, generator=G)[:k] for _ in range(11)]).int()
    weights = torch.rand(11, k, generator=G)
    rows, places, counts = (
        torch.empty(33, 32),
        torch.empty(33, dtype=torch.int32),
        torch.empty(count, dtype=torch.int64),
    )
    routing = (None, None, -1, -1, count, 0, 1, True, -1, [0, count], 0)
    fused_moe.init_routing(x, ids, *routing, rows, places, counts, torch.empty(0))
    for matrix, halves in ((layer.gate_up_proj, True), (layer.down_proj, False)):
        out = torch.empty(33, matrix.shape[1])
        nothing = [None] * 6
        fused_moe.grouped_matmul(
            [rows], [matrix.transpose(1, 2)], *nothing, counts, *[None] * 3, 3, 0, 1, 0, None, [out], None, None
        )
        rows = torch.empty(33, out.shape[1] // 2) if halves else out
        if halves:
            fused_dense.clipped_swiglu(out, None, -1, 1.0, layer.limit, 0.0, False, rows)
    found = torch.empty(11, 32)
    fused_moe.unpermute(rows, places, weights, False, None, found)
    return error(found, layer(x, ids.long(), weights))


def indexer() -> float:
    """Which entries are the best: 1 where any row has others."""
    scorer = randomised(theirs.DeepseekV4IndexerScorer(CONFIG), 3)
    q, keys, hidden = draw(1, 6, 8, 16), draw(1, 40, 16), draw(1, 6, 32)
    scores = scorer(q, keys, hidden)
    weights = scorer.weights_proj(hidden) * scorer.weights_scaling * scorer.softmax_scale
    out = torch.empty(1, 6, 1, 8, dtype=torch.int32)
    fused_attention.lightning_indexer(
        q, keys.view(5, 8, 1, 16), weights, None, torch.tensor([40]), torch.arange(5)[None], "BSND", "PA_BSND",
        8, 0, 0, 0, False, out, None,
    )  # fmt: skip
    return float((out[0, :, 0].sort().values != scores[0].topk(8).indices.sort().values).any())


def attention() -> float:
    q, keys, sink, scale = draw(1, 5, 4, 8), draw(1, 12, 1, 8), draw(4), 8**-0.5
    chosen = torch.stack([torch.randperm(12, generator=G)[:6] for _ in range(5)])
    mask = torch.full((1, 1, 5, 12), -math.inf).scatter_(3, chosen[None, None], 0.0)
    module = SimpleNamespace(num_key_value_groups=4, sinks=sink, training=False)
    kv = keys.transpose(1, 2)
    right, _ = theirs.eager_attention_forward(module, q.transpose(1, 2), kv, kv, mask, scale)
    out, most, total = torch.empty_like(q), torch.empty(1, 1, 5, 4), torch.empty(1, 1, 5, 4)
    rest = (scale, 1, "BSND", "BSND", 0, 0, 0, 2, True, out, most, total)
    zeros = torch.zeros(1, 5, 4, 2), torch.zeros(1, 12, 1, 2)
    fused_attention.sparse_attention_v2(
        q, keys, keys, chosen.int()[None, :, None], None, None, None, *zeros, sink, *rest
    )
    return error(out, right)


def attention_sums() -> float:
    """The softmax's maximum and sum are of scaled scores, without a sink."""
    q, keys, scale = draw(1, 2, 1, 8), draw(1, 3, 1, 8), 0.3
    out, most, total = torch.empty_like(q), torch.empty(1, 1, 2, 1), torch.empty(1, 1, 2, 1)
    listed = torch.tensor([[0, 2, -1], [1, 0, 2]], dtype=torch.int32)[None, :, None]
    rest = (scale, 1, "BSND", "BSND", 0, 0, 0, 2, True, out, most, total)
    zeros = torch.zeros(1, 2, 1, 2), torch.zeros(1, 3, 1, 2)
    fused_attention.sparse_attention(q, keys, keys, listed, None, None, None, *zeros, *rest)
    right = torch.tensor([
        math.log(sum(math.exp(scale * float(q[0, t, 0].double() @ keys[0, s, 0].double())) for s in seen))
        for t, seen in enumerate(((0, 2), (1, 0, 2)))
    ])  # fmt: skip
    return error((most + total.log()).flatten(), right)


def mhc_pre() -> float:
    layer = randomised(theirs.DeepseekV4HyperConnection(CONFIG), 4)
    streams = draw(1, 6, 4, 32)
    post, comb, collapsed = layer(streams)
    outputs = torch.empty(6, 32), torch.empty(6, 4), torch.empty(6, 4, 4)
    eps = layer.input_norm.eps if hasattr(layer.input_norm, "eps") else layer.input_norm.variance_epsilon
    fused_mhc.mhc_pre(streams[0], layer.fn, layer.scale, layer.base, None, eps, layer.hc_eps, 0, *outputs)
    mixed = torch.empty(6, 4, 4)
    fused_mhc.mhc_sinkhorn(outputs[2], layer.hc_eps, layer.hc_sinkhorn_iters, mixed)
    return max(error(outputs[0], collapsed[0]), error(outputs[1], post[0]), error(mixed, comb[0]))


def mhc_post() -> float:
    """`x_{l+1} = (H_res)^T x_l + h_out H_post`, entry by entry."""
    x, h_res, h_out, h_post = draw(2, 4, 5), torch.rand(2, 4, 4, generator=G), draw(2, 5), draw(2, 4)
    out, right = torch.empty_like(x), torch.zeros(2, 4, 5, dtype=torch.float64)
    fused_mhc.mhc_post(x, h_res, h_out, h_post, out)
    for t, i, d in ((t, i, d) for t in range(2) for i in range(4) for d in range(5)):
        right[t, i, d] = float(h_out[t, d]) * float(h_post[t, i])
        right[t, i, d] += sum(float(h_res[t, j, i]) * float(x[t, j, d]) for j in range(4))
    return error(out, right)


def weight_only() -> float:
    x, weight, scale = draw(3, 8), torch.randint(-127, 128, (8, 4), generator=G, dtype=torch.int8), draw(4).abs()
    out, right = torch.empty(3, 4), torch.zeros(3, 4, dtype=torch.float64)
    fused_dense.weight_quant_matmul(x, weight, scale, None, None, None, None, 0, out)
    for m, n in ((m, n) for m in range(3) for n in range(4)):
        right[m, n] = sum(float(x[m, k]) * int(weight[k, n]) * float(scale[n]) for k in range(8))
    return error(out, right)


CHECKS: tuple[Callable[[], float], ...] = (
    rms_norm, rotary, swiglu, experts, indexer, attention, attention_sums, mhc_pre, mhc_post, weight_only,
)  # fmt: skip

if __name__ == "__main__":
    with torch.no_grad():
        print(json.dumps({check.__name__: check() for check in CHECKS}))
