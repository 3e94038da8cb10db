// Tokens' copies on their way to the experts and back, and what an expert does between its matrices.
#pragma once

#include <cstdint>

#include "types.h"

// moe_dispatch: copies sorted by expert, stably. Expert e gets the rows offsets[e] .. offsets[e + 1]: rows[inverse[t, j]] = x[t]
// for e = ids[t, j]. Copies whose id is no expert have places behind offsets[experts], and rows that are not written.
// x [tokens, bytes]; ids, inverse [tokens, k]; offsets [experts + 1].
//
// moe_combine: out[t, c] = sum_j weights[t, j] * y[inverse[t, j], c] over the copies with ids[t, j] >= 0, in float32, rounded once.
// y [rows, width]; throws std::out_of_range where such a copy's row is not one of y's.
//
// swiglu: y = silu(min(gate, limit)) * clamp(up, -limit, limit) in float32, rounded once, of n numbers; an infinite limit is none.
#define DEEPPORT_MOE(KERNEL)                                                                                               \
  KERNEL(moe_dispatch, const void* x, const int32_t* ids, void* rows, int32_t* offsets, int32_t* inverse, int64_t tokens,  \
         int64_t k, int64_t experts, int64_t bytes)                                                                       \
  KERNEL(moe_combine, const void* y, const float* weights, const int32_t* inverse, const int32_t* ids, void* out, Type type, \
         int64_t rows, int64_t tokens, int64_t k, int64_t width)                                                          \
  KERNEL(swiglu, const void* gate, const void* up, void* y, Type type, int64_t n, float limit)
