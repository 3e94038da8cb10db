// Many tokens by a few rows of float32: a = x fn^T.
#pragma once

#include "parallel.h"
#include "scratch.h"
#include "simd/simd.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

// The projection is a product of matrices in float32. Tokens in groups meet a block of fn's columns while it is in the nearest
// cache; sums wait as vectors, and each lane is one chain of additions, so that a token's sums are the same in any group.
constexpr int64_t group_tokens = 16, block_columns = 128;

// Within a group: as many sums as the registers hold.
constexpr int tile_tokens = Vec::lanes == 16 ? 4 : 2, tile_rows = 4;

// A product's right side, and so many of its columns: rows lie `size` apart, and there are `rows` of them.
struct Weights {
  const float* fn;
  int64_t rows, size, columns;
};

// sums[t, r] += fn[r] x[t] by lanes; rows of x lie `pitch` apart.
template <int tokens, int rows, class T>
void tile(const T* x, int64_t pitch, const Weights& by, float* sums) {
  Vec s[tokens][rows];
  for (int t = 0; t < tokens; ++t)
    for (int r = 0; r < rows; ++r) s[t][r] = load(sums + (t * by.rows + r) * Vec::lanes);
  each(by.columns, [&](int64_t c, auto access) {
    Vec of_token[tokens];
    for (int t = 0; t < tokens; ++t) of_token[t] = access.get(x + t * pitch + c);
    for (int r = 0; r < rows; ++r) {
      const Vec weight = access.get(by.fn + r * by.size + c);
      for (int t = 0; t < tokens; ++t) s[t][r] = fma(of_token[t], weight, s[t][r]);
    }
  });
  for (int t = 0; t < tokens; ++t)
    for (int r = 0; r < rows; ++r) store(sums + (t * by.rows + r) * Vec::lanes, s[t][r]);
}

template <int rows, class T>
void tiles(const T* x, int64_t pitch, int64_t tokens, const Weights& by, float* sums) {
  int64_t t = 0;
  for (; t + tile_tokens <= tokens; t += tile_tokens)
    tile<tile_tokens, rows>(x + t * pitch, pitch, by, sums + t * by.rows * Vec::lanes);
  for (; t < tokens; ++t) tile<1, rows>(x + t * pitch, pitch, by, sums + t * by.rows * Vec::lanes);
}

template <class T>
void block(const T* x, int64_t pitch, int64_t tokens, Weights by, float* sums) {
  int64_t r = 0;
  for (; r + tile_rows <= by.rows; r += tile_rows, by.fn += tile_rows * by.size)
    tiles<tile_rows>(x, pitch, tokens, by, sums + r * Vec::lanes);
  for (; r < by.rows; ++r, by.fn += by.size) tiles<1>(x, pitch, tokens, by, sums + r * Vec::lanes);
}

// Rows of `columns` numbers, `pitch` apart, as floats that lie together, `block_columns` apart.
template <class T>
void widen(const T* from, int64_t pitch, int64_t rows, int64_t columns, float* to) {
  for (int64_t r = 0; r < rows; ++r)
    each(columns, [&](int64_t c, auto access) { access.put(to + r * block_columns + c, access.get(from + r * pitch + c)); });
}

// a[t, r] = fn[r] . x[t] of a group's tokens and some rows; rows of a lie `stride` apart. Several tokens are widened to float
// first, once for all rows.
template <class T>
void project_group(const T* x, const float* fn, float* a, int64_t tokens, int64_t rows, int64_t size, int64_t stride) {
  struct Tag;
  const int64_t lanes = tokens * rows * Vec::lanes;
  float *sums = Scratch<Tag>::template get<float>(lanes + group_tokens * block_columns), *wide = sums + lanes;
  for (int64_t i = 0; i < lanes; ++i) sums[i] = 0;
  if (tokens == 1)
    block(x, size, tokens, {fn, rows, size, size}, sums);
  else
    for (int64_t c = 0; c < size; c += block_columns) {
      const int64_t columns = size - c < block_columns ? size - c : block_columns;
      widen(x + c, size, tokens, columns, wide);
      block(wide, block_columns, tokens, {fn + c, rows, size, columns}, sums);
    }
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t r = 0; r < rows; ++r) a[t * stride + r] = sum(load(sums + (t * rows + r) * Vec::lanes));
}

// a [tokens, rows] = x fn^T. Threads share the groups; of one group, the rows.
template <class T>
void project(const T* x, const float* fn, float* a, int64_t tokens, int64_t rows, int64_t size) {
  const int64_t groups = (tokens + group_tokens - 1) / group_tokens, height = groups > 1 ? rows : tile_rows;
  const int64_t across = (rows + height - 1) / height, products = (groups > 1 ? group_tokens : tokens) * height * size;
  parallel(groups * across, 1 + 32768 / (products + 1), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t t = i / across * group_tokens, r = i % across * height;
      const int64_t of_group = tokens - t < group_tokens ? tokens - t : group_tokens, of_part = rows - r < height ? rows - r : height;
      project_group(x + t * size, fn + r * size, a + t * rows + r, of_group, of_part, size, rows);
    }
  });
}

}  // namespace
}  // namespace deepport::DEEPPORT_LEVEL
