// Shared-KV attention over a window and compressed entries, and the choice of those entries (DeepSeek-V4, section 2.3).
#pragma once

#include <cstdint>

#include "types.h"

// o[t, h] = sum_s p_s kv_s with p = softmax_s(scale q[t, h] . kv_s) over what the token at position p sees: the window's positions
// p - window_size + 1 .. p, and compressed entries, those of its row of indices [tokens, selected] that are not negative, or all
// s < (p + 1) / ratio without indices. exp(sink[h]) joins the denominator alone; lse[t, h] is the logarithm of the rest.
// Pages are [pages, page, size], found by table [sequences, columns]. No compressed entries, indices or sink: null.
// Throws std::out_of_range, once all is computed, where a token sees what lies outside of a table or of the pages.
#define DEEPPORT_SPARSE_ATTENTION(KERNEL)                                                                                      \
  KERNEL(sparse_attention, const void* q, const void* window_pages, const int32_t* window_table, const void* compressed_pages, \
         const int32_t* compressed_table, const int32_t* indices, const float* sink, const int64_t* positions,                 \
         const int32_t* cu_seqlens, void* o, float* lse, Type type, int64_t tokens, int64_t heads, int64_t size,               \
         int64_t sequences, int64_t window_count, int64_t window_page, int64_t window_columns, int64_t compressed_count,       \
         int64_t compressed_page, int64_t compressed_columns, int64_t selected, float scale, int64_t window_size, int64_t ratio)

// What the gradient of o, `grad`, makes of q's and the sink's, and in float32 of both caches', which are added to `dwindow` and
// `dcompressed`. With g_s = scale p_s (grad . kv_s - m), m = sum_s p_s grad . kv_s: dq = sum_s g_s kv_s; dkv_s is the sum of
// g_s q + p_s grad over the tokens and heads that see it; dsink that of -p m over the tokens, p the sink's share. No sink, no
// dsink: null. The rest is as above, where o and lse are not.
#define DEEPPORT_SPARSE_ATTENTION_BACKWARD(KERNEL)                                                                             \
  KERNEL(sparse_attention_backward, const void* grad, const void* q, const void* window_pages, const int32_t* window_table,    \
         const void* compressed_pages, const int32_t* compressed_table, const int32_t* indices, const float* sink,             \
         const int64_t* positions, const int32_t* cu_seqlens, void* dq, float* dwindow, float* dcompressed, float* dsink,      \
         Type type, int64_t tokens, int64_t heads, int64_t size, int64_t sequences, int64_t window_count, int64_t window_page, \
         int64_t window_columns, int64_t compressed_count, int64_t compressed_page, int64_t compressed_columns,                \
         int64_t selected, float scale, int64_t window_size, int64_t ratio)

// ids[t] = the k best entries s < (p + 1) / ratio of the token at position p by sum_h weights[t, h] relu(q[t, h] . key[s]), ascending,
// then -1. Ties go to the lowest id, NaN is never chosen; padding has -1. Pages and errors as above.
#define DEEPPORT_INDEX_TOPK(KERNEL)                                                                                         \
  KERNEL(index_topk, const void* q, const float* weights, const void* pages, const int32_t* table, const int64_t* positions, \
         const int32_t* cu_seqlens, int32_t* ids, Type type, int64_t tokens, int64_t heads, int64_t size, int64_t sequences,  \
         int64_t count, int64_t page, int64_t columns, int64_t ratio, int64_t k)

#define DEEPPORT_ATTENTION(KERNEL)           \
  DEEPPORT_SPARSE_ATTENTION(KERNEL)          \
  DEEPPORT_SPARSE_ATTENTION_BACKWARD(KERNEL) \
  DEEPPORT_INDEX_TOPK(KERNEL)
