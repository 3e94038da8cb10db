"""Ragged batches and paged caches (`deepport.ragged`), as kernels read them."""

import triton
import triton.language as tl


@triton.jit
def sequence_of(token, cu_seqlens, sequences, block: tl.constexpr):
    """The sequence of a row: how many end at it or before. Padding has the last one's."""
    found = 0
    for begin in range(0, sequences, block):
        at = begin + tl.arange(0, block)
        ends = tl.load(cu_seqlens + 1 + at, mask=at < sequences, other=2147483647)
        found += tl.sum((ends <= token).to(tl.int32), 0)
    return tl.minimum(found, sequences - 1)
