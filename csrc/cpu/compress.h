// KV compression: windows of tokens become one cache entry each.
#pragma once

#include <cstdint>

#include "types.h"

// Of each window of `ratio` tokens that is now complete, and each channel: sum_i softmax_i(gate_i + bias_i) kv_i. With overlap the
// channels are two halves: the sum runs over the first half of the window before and the second half of this one.
//
// kv, gate [tokens, channels]; bias [ratio, channels]; state [places, (2 or 1) * ratio, 2 * channels], of which sequence b has
// slots[b]: kv and biased gate of the tokens of its unfinished window, behind those of the window before with overlap; it is
// brought up to date. positions, cu_seqlens as in paged.h. entries [tokens / ratio + sequences, channels / (2 or 1)], zeros behind the
// last; ids of them, each one's place in its own sequence, -1 behind the last; cu_entries [sequences + 1].
// Throws std::out_of_range, and writes nothing, for a slot that the state does not have.
#define DEEPPORT_COMPRESS(KERNEL)                                                                                             \
  KERNEL(compress_kv, const void* kv, const void* gate, const float* bias, float* state, const int32_t* slots,               \
         const int64_t* positions, const int32_t* cu_seqlens, void* entries, int64_t* ids, int32_t* cu_entries, Type type,   \
         int64_t tokens, int64_t sequences, int64_t places, int64_t channels, int64_t ratio, bool overlap)
