"""Kernels on vllm-ascend's operators, which gain over torch_npu's on A2 and A3, where that package is installed.

Left out, of those that look like ours (vllm-ascend 182b75e, and the pages of cann-recipes-infer):
- npu_hc_pre_v2 multiplies in HF32, truncated, as its test says; mhc_pre is a product in float32;
- moe_gating_top_k_hash takes the root of `ln(1 + exp(x))`: 0 for a logit below -17, infinite above 88, and a table chooses such;
- npu_sparse_attn_sharedkv does not return the logsumexp, and compressor projects, normalises and rotates in one;
- npu_lightning_indexer, npu_sparse_flash_attention and moe_gating_top_k are torch_npu's, with its limits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deepport.kernel import Kernel, Signature, Support
from deepport_npu import vllm_ascend
from deepport_npu.kernels.chip import Chip, every, laid


def kernels(chip: Chip) -> tuple[Kernel, ...]:
    """Asked before torch_npu's. What is loaded is looked up now: `supports` knows nothing but signatures."""
    rotates, mixes = (vllm_ascend.offers(name) for name in ("inplace_partial_rotary_mul", "npu_hc_post"))
    return (
        Kernel("rotary", "inplace_partial_rotary_mul", rotary, lambda s: every(rotates, _rotary(chip, s))),
        Kernel("mhc_post", "npu_hc_post", mhc_post, lambda s: every(mixes, _mhc_post(chip, s))),
    )


def rotary(x: Tensor, cos: Tensor, sin: Tensor, inverse: bool = False) -> Tensor:
    """A copy, rotated in place. The vendor takes float32 angles beside narrower x, which torch_npu's operator does not."""
    size = 2 * cos.shape[-1]
    r1, r2 = (torch.stack((c, c), -1).view(1, c.shape[0], 1, size) for c in (cos, -sin if inverse else sin))
    found = x.clone(memory_format=torch.contiguous_format)
    whole = found.view(1, x.shape[0], -1, x.shape[-1])
    torch.ops._C_ascend.inplace_partial_rotary_mul(whole, r1, r2, "interleave", [x.shape[-1] - size, x.shape[-1]])
    return found


def _rotary(chip: Chip, call: Signature) -> Support:
    x, cos = call["x"], call["cos"]
    size = 2 * cos.shape[-1]
    angles = laid(cos.dtype, 1, x.shape[0], 1, size)
    heads = 1 if len(x.shape) == 2 else x.shape[1]
    return chip.takes(
        "inplace_partial_rotary_mul", x=laid(x.dtype, 1, x.shape[0], heads, x.shape[-1]), r1=angles, r2=angles,
        rotary_mode="interleave", partial_slice=(x.shape[-1] - size, x.shape[-1]),
    )  # fmt: skip


def mhc_post(y: Tensor, streams: Tensor, post: Tensor, comb: Tensor) -> Tensor:
    """The vendor's page: `post x + sum(comb[..., None] residual[..., None, :], dim=2)`, over comb's first stream axis."""
    given = (t.contiguous()[None] for t in (y, streams, post, comb))
    found: Tensor = torch.ops._C_ascend.npu_hc_post(*given)[0]
    return found


def _mhc_post(chip: Chip, call: Signature) -> Support:
    x, residual, post, comb = (laid(call[n].dtype, 1, *call[n].shape) for n in ("y", "streams", "post", "comb"))
    return chip.takes("npu_hc_post", x=x, residual=residual, post=post, comb=comb)
