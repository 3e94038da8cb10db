"""KV compression (`csrc/cpu/compress.h`). The functional twin writes to a copy of the state."""

import torch
from torch import Tensor

from deepport.fit import calls, in_place
from deepport.kernel import Kernel, Signature, Support
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


def _compress_in_place(signature: Signature) -> Support:
    return in_place(signature, "state") and calls.compress_kv(signature)


KERNELS = (
    Kernel("compress_kv_", "native", compress_kv_, _compress_in_place, mutates=("state",)),
    Kernel("compress_kv", "native", compress_kv, calls.compress_kv),
)
