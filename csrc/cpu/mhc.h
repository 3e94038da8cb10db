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
//
// <kernel>_backward: d_<name> is the gradient of <name>, in its type: first those of the results, null for 0; at the end those of the
// arguments, null where nobody asks. With s a row's scale, x' = x / sqrt(mean(x^2) + norm_eps):
//
// mhc_pre, mhc_head: d_pre[i] = d_y . streams[i], and d_a follows from d_pre, d_post and d_comb, back through Sinkhorn's divisions.
//     d_base = sum_t d_a; d_scale = sum_t d_a . fn x' of each part; g = s d_a; d_fn = sum_t g x'^T;
//     d_streams[i] = pre[i] d_y + (fn^T g - x' (g . fn x') / (n width)) / sqrt(mean(x^2) + norm_eps).
// mhc_post: d_y = sum_m post[m] d_mixed[m]; d_streams[k] = sum_m comb[k, m] d_mixed[m]; d_post[m] = d_mixed[m] . y;
//     d_comb[k, m] = streams[k] . d_mixed[m].
#define DEEPPORT_MHC(KERNEL)                                                                                                \
  KERNEL(mhc_pre, const void* streams, const float* fn, const float* scale, const float* base, void* y, float* post,       \
         float* comb, Type type, int64_t tokens, int64_t n, int64_t width, int64_t iters, float eps, float norm_eps)       \
  KERNEL(mhc_head, const void* streams, const float* fn, const float* scale, const float* base, void* y, Type type,        \
         int64_t tokens, int64_t n, int64_t width, float eps, float norm_eps)                                              \
  KERNEL(mhc_post, const void* y, const void* streams, const float* post, const float* comb, void* mixed, Type type,       \
         int64_t tokens, int64_t n, int64_t width)                                                                          \
  KERNEL(mhc_pre_backward, const void* d_y, const float* d_post, const float* d_comb, const void* streams, const float* fn, \
         const float* scale, const float* base, void* d_streams, float* d_fn, float* d_scale, float* d_base, Type type,    \
         int64_t tokens, int64_t n, int64_t width, int64_t iters, float eps, float norm_eps)                               \
  KERNEL(mhc_head_backward, const void* d_y, const void* streams, const float* fn, const float* scale, const float* base,  \
         void* d_streams, float* d_fn, float* d_scale, float* d_base, Type type, int64_t tokens, int64_t n, int64_t width, \
         float eps, float norm_eps)                                                                                        \
  KERNEL(mhc_post_backward, const void* d_mixed, const void* y, const void* streams, const float* post, const float* comb, \
         void* d_y, void* d_streams, float* d_post, float* d_comb, Type type, int64_t tokens, int64_t n, int64_t width)
