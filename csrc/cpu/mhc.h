// Residual streams: n of them, mixed by a matrix whose columns sum to 1, and almost its rows (manifold-constrained hyper-connections).
#pragma once

#include <cstdint>

#include "types.h"

// streams [tokens, n, width]; fn [rows, n * width], base [rows]; y [tokens, width]; post [tokens, n], comb [tokens, n, n].
//
// Of each token, with x its n * width numbers and a = fn x / sqrt(mean(x^2) + norm_eps), in float32:
//
// mhc_pre: rows = (2 + n) n, in three parts, each times its scale [3] plus base. pre = sigmoid(a) + eps; post = 2 sigmoid(a);
//     comb = softmax(a) of each row + eps, then columns and rows in turn divided by their sums + eps, columns first and last,
//     `iters` times. y = sum_i pre[i] streams[i].
// mhc_head: rows = n, one scale: y = sum_i (sigmoid(a[i]) + eps) streams[i].
// mhc_post: mixed[m] = post[m] y + sum_k comb[k, m] streams[k].
#define DEEPPORT_MHC(KERNEL)                                                                                                \
  KERNEL(mhc_pre, const void* streams, const float* fn, const float* scale, const float* base, void* y, float* post,       \
         float* comb, Type type, int64_t tokens, int64_t n, int64_t width, int64_t iters, float eps, float norm_eps)       \
  KERNEL(mhc_head, const void* streams, const float* fn, const float* scale, const float* base, void* y, Type type,        \
         int64_t tokens, int64_t n, int64_t width, float eps, float norm_eps)                                              \
  KERNEL(mhc_post, const void* y, const void* streams, const float* post, const float* comb, void* mixed, Type type,       \
         int64_t tokens, int64_t n, int64_t width)
