// Experts: a matrix for each of them, by the tokens that were sent to it.
#pragma once

#include <cstdint>

#include "types.h"

// Weights are stacks of matrices in any number format, with their scales (null where it has none). Sums are in float32; their order
// depends on how many tokens an expert has, and on nothing else.
//
// grouped_linear: y[r] = x[r] w[e]^T for the rows offsets[e] .. offsets[e + 1] of every expert e, 0 behind the last.
// x [count, columns]; w [experts, rows, columns]; offsets [experts + 1]; y [count, rows].
//
// moe_experts: out[t] = sum_j weights[t, j] w2[e] h, h = swiglu(w1[e] x[t], w3[e] x[t]), over the experts e = ids[t, j] that there
// are, lower ones first. h is rounded to x's type where that is how it is multiplied; nothing else is, but the sum. w1 and w3 are the
// halves of w13. x, out [tokens, width]; ids, weights [tokens, k]; w13 [experts, 2 hidden, width]; w2 [experts, width, hidden].
//
// moe_experts_backward: what the gradient of out, `grad`, makes of x's, weights' and, where they are not null, both matrices', of
// numbers of x's type. Of each copy, with d = w2^T grad and h as above: dweight = d . h; dw2 = sum of weight grad h^T; dw13 = sum of
// b x^T and dx = sum of w13^T b, where b are the gradients of swiglu's arguments by that of h, weight d.
#define DEEPPORT_EXPERTS(KERNEL)                                                                                              \
  KERNEL(grouped_linear, const void* x, const void* w, const void* scale, Format format, const int32_t* offsets, void* y,     \
         Type type, int64_t count, int64_t experts, int64_t rows, int64_t columns)                                            \
  KERNEL(moe_experts, const void* x, const int32_t* ids, const float* weights, const void* w13, const void* w13_scale,        \
         const void* w2, const void* w2_scale, Format format, void* out, Type type, int64_t tokens, int64_t k,                \
         int64_t experts, int64_t width, int64_t hidden, float limit) \
  KERNEL(moe_experts_backward, const void* grad, const void* x, const int32_t* ids, const float* weights, const void* w13,    \
         const void* w2, void* dx, float* dweights, void* dw13, void* dw2, Type type, int64_t tokens, int64_t k,              \
         int64_t experts, int64_t width, int64_t hidden, float limit)
