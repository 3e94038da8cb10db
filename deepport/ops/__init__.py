"""Every operator: `deepport.ops.<operator>(...)`. One file per family; a backend adds kernels, never operators."""

from deepport.ops.attention import index_topk, sparse_attention
from deepport.ops.cache import write_pages, write_pages_
from deepport.ops.compress import compress_kv, compress_kv_
from deepport.ops.dense import block_linear, linear, rms_norm, rotary, rotary_angles
from deepport.ops.engram import engram_conv, engram_conv_, engram_gate, engram_gather, engram_hash
from deepport.ops.mhc import mhc_head, mhc_post, mhc_pre
from deepport.ops.moe import grouped_linear, moe_combine, moe_dispatch, moe_experts, route, swiglu
from deepport.ops.quantize import dequantize, quantize

__all__ = [
    "block_linear",
    "compress_kv",
    "compress_kv_",
    "dequantize",
    "engram_conv",
    "engram_conv_",
    "engram_gate",
    "engram_gather",
    "engram_hash",
    "grouped_linear",
    "index_topk",
    "linear",
    "mhc_head",
    "mhc_post",
    "mhc_pre",
    "moe_combine",
    "moe_dispatch",
    "moe_experts",
    "quantize",
    "rms_norm",
    "rotary",
    "rotary_angles",
    "route",
    "sparse_attention",
    "swiglu",
    "write_pages",
    "write_pages_",
]
