// Conditional memory: which rows its n-grams have, and what becomes of them.
#pragma once

#include <cstdint>

#include "types.h"

// engram_hash: rows[l, t, o, h] = ((s_0 m_0) xor ... xor (s_{o+1} m_{o+1})) mod moduli[l, o, h] + offsets[l, o, h] with
//     m = multipliers[l] [orders + 1], in wrapping arithmetic; remainders have the modulus's sign. s_j is the token j places back, or
//     pad: before the start of a text (-1 in history), for a dead token, for the boundary (-1 for none) where looked back at, and for
//     all that is behind one of these. ids, dead (null for none) [tokens]; history [sequences, orders], the latest last; rows of
//     padding are 0, which every table has. Throws std::runtime_error for a modulus of 0.
// engram_gate: gated[t, i] = sigmoid(sign(d) sqrt(max(|d|, clamp))) value[t] with
//     d = rms(hidden[t, i]; w_h[i]) . rms(key[t, i]; w_k[i]) / sqrt(width). hidden, key [tokens, n, width]. A d of 0 has no sign
//     where `zero` is 0, its own where it is 1, and is positive where it is 2.
// engram_conv: out = gated + silu(sum_j w_conv[:, taps - 1 - j] x[t - j * dilation]) with x = rms(gated; w_norm). gated
//     [tokens, n, width], zeros behind the last sequence in out; w_conv [n * width, taps]; state
//     [places, (taps - 1) * dilation, n * width], of which sequence b has slots[b]: the rows of x before its first token, the latest
//     last; it is brought up to date. Throws std::out_of_range, and writes nothing, for a slot that the state does not have.
#define DEEPPORT_ENGRAM(KERNEL)                                                                                               \
  KERNEL(engram_hash, const int64_t* ids, const int64_t* history, const int32_t* cu_seqlens, const bool* dead,               \
         const int64_t* multipliers, const int64_t* moduli, const int64_t* offsets, int64_t* rows, int64_t tokens,           \
         int64_t sequences, int64_t layers, int64_t orders, int64_t heads, int64_t pad, int64_t boundary)                    \
  KERNEL(engram_gate, const void* hidden, const void* key, const void* value, const float* w_h, const float* w_k,            \
         void* gated, Type type, int64_t tokens, int64_t n, int64_t width, float eps, float clamp, int64_t zero)             \
  KERNEL(engram_conv, const void* gated, const float* w_norm, const void* w_conv, Type w_type, float* state,                 \
         const int32_t* slots, const int32_t* cu_seqlens, void* out, Type type, int64_t tokens, int64_t sequences,           \
         int64_t places, int64_t n, int64_t width, int64_t taps, int64_t dilation, float eps)
