"""The Triton kernels, through triton-ascend: asked last, for calls that no operator of the vendor takes.

A kernel takes what Ascend's compiler has accepted up to HIVM for the chip's generation (`deepport_triton.accepted`), and gives
the compiler's reason for what it has refused. No NPU has run any.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from deepport.kernel import Kernel, Signature, Support, no
from deepport.op import operators
from deepport_npu import triton_ascend
from deepport_npu.kernels.chip import Chip

OPERATORS = (
    "block_linear", "compress_kv", "compress_kv_", "dequantize", "engram_conv", "engram_conv_", "engram_gate",
    "engram_gather", "engram_hash", "grouped_linear", "index_topk", "linear", "mhc_head", "mhc_post", "mhc_pre",
    "moe_combine", "moe_dispatch", "moe_experts", "quantize", "rms_norm", "rotary", "rotary_angles", "route",
    "sparse_attention", "swiglu", "write_pages", "write_pages_",
)  # fmt: skip
"""Those that have a Triton kernel, named where no Triton can be imported."""


def kernels(chip: Chip) -> tuple[Kernel, ...]:
    reason = triton_ascend.missing(chip.versions) or triton_ascend.unusable()
    if reason:
        return tuple(_refusing(name, no("version", reason)) for name in OPERATORS)
    from deepport_triton.kernels import KERNELS

    return tuple(replace(kernel, supports=partial(_supports, chip, kernel)) for kernel in KERNELS)


def _refusing(name: str, refusal: Support) -> Kernel:
    """A kernel that nobody can run; the reference stands in its place, for its signature."""
    operator = operators[name]
    return Kernel(name, "triton", operator.reference, lambda signature: refusal, mutates=operator.mutates)


def _supports(chip: Chip, kernel: Kernel, signature: Signature) -> Support:
    from deepport_triton.accepted import answer

    return answer(kernel, f"ascend-{chip.family.lower()}", signature)
