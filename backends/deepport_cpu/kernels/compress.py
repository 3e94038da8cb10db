"""KV compression (`csrc/cpu/compress.h`). The functional twin writes to a copy of the state."""

import torch
from torch import Tensor

from deepport.fit import dtypes, floats, in_place, shapes
from deepport.kernel import Kernel, Signature, Support, no
from deepport_cpu.native import call, dense


def compress_kv_(
    kv: Tensor, gate: Tensor, position_bias: Tensor, state: Tensor, slots: Tensor, positions: Tensor, cu_seqlens: Tensor,
    ratio: int, overlap: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    (tokens, channels), sequences = kv.shape, slots.shape[0]
    count = tokens // ratio + sequences
    entries = torch.empty((count, channels // (1 + overlap)), dtype=kv.dtype)
    ids, cu_entries = torch.empty(count, dtype=torch.int64), torch.empty(sequences + 1, dtype=torch.int32)
    call.compress_kv(
        dense(kv), dense(gate), dense(position_bias), state, dense(slots), dense(positions), dense(cu_seqlens),
        entries, ids, cu_entries, kv.dtype, tokens, sequences, state.shape[0], channels, ratio, overlap,
    )  # fmt: skip
    return entries, ids, cu_entries


def compress_kv(
    kv: Tensor, gate: Tensor, position_bias: Tensor, state: Tensor, slots: Tensor, positions: Tensor, cu_seqlens: Tensor,
    ratio: int, overlap: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    carried = state.clone(memory_format=torch.contiguous_format)
    found = compress_kv_(kv, gate, position_bias, carried, slots, positions, cu_seqlens, ratio, overlap)
    return *found, carried


def _compress(signature: Signature) -> Support:
    if signature["ratio"] < 1 or (signature["overlap"] and signature["kv"].shape[-1] % 2):
        return no("attribute", "the reference refuses such a call")
    return (
        floats(signature, "kv", "gate")
        and dtypes(signature, position_bias=torch.float32, state=torch.float32)
        and dtypes(signature, slots=torch.int32, positions=torch.int64, cu_seqlens=torch.int32)
        and shapes(
            signature, kv="T C", gate="T C", position_bias="ratio C", state="S (1+overlap)*ratio 2*C", slots="B",
            positions="T", cu_seqlens="B+1",
        )
    )  # fmt: skip


def _compress_in_place(signature: Signature) -> Support:
    return in_place(signature, "state") and _compress(signature)


KERNELS = (
    Kernel("compress_kv_", "native", compress_kv_, _compress_in_place, mutates=("state",)),
    Kernel("compress_kv", "native", compress_kv, _compress),
)
