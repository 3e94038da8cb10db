// Products of weights with few rows of activations: each row of weights is read once, as it lies, and is its own sum.
#pragma once

#include <limits>

#include "expand.h"
#include "scratch.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

// Weights of type E by numbers of type X: what they are multiplied as, how many at a time, and how.
template <class E, class X>
struct Lane {
  static constexpr int64_t count = Pairs::lanes;
  template <class N>
  static Split get(const N* p) { return load_split(p); }
  template <class N>
  static Split part(const N* p, int64_t n) { return load_split_part(p, n); }
  static Vec add(Split a, Split b, Vec c) { return dot(a, b, c); }
};

struct FloatLane {
  static constexpr int64_t count = Vec::lanes;
  template <class N>
  static Vec get(const N* p) { return load(p); }
  template <class N>
  static Vec part(const N* p, int64_t n) { return load_part(p, n); }
  static Vec add(Vec a, Vec b, Vec c) { return fma(a, b, c); }
};

template <>
struct Lane<float, float> : FloatLane {};

#if !defined(DEEPPORT_SPLITS_FLOATS)
template <class E>
struct Lane<E, float> : FloatLane {};
#endif

// Rows of weights that are read at once, from places far apart: a processor fetches ahead in each, and memory is the busier for it.
constexpr int streams = 4;

constexpr int64_t dots_rows = 16;    // of a stream, whose sums are handed on together
constexpr int64_t dots_tokens = 32;  // that share rows while these are in the nearest cache
constexpr int64_t ahead = 2048;      // bytes of each stream that are asked for before they are read

using Sums = float[dots_tokens][dots_rows];

// The products of the last `count` columns, fewer than fill a vector. Not inlined: the loops around would keep their sums in memory.
template <int R, int T, class E, class X>
[[gnu::noinline]] void last_products(const E* w, int64_t pitch, const X* x, int64_t stride, int64_t count, Vec (&part)[R][T]) {
  using L = Lane<E, X>;
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < T; ++t)
      part[r][t] = L::add(L::part(w + r * pitch / packing<E>, count), L::part(x + t * stride, count), zero());
}

// part[r][t] = sum_k w[r, k] x[t, k] of the columns [begin, end) of R rows of weights, `pitch` numbers apart, and T of x, in several
// chains of additions where these are few. `first`: nobody has read these rows before.
template <int R, int T, class E, class X>
[[gnu::always_inline]] inline void add_up(const E* w, int64_t pitch, const X* x, int64_t stride, int64_t begin, int64_t end, bool first,
                                          Vec (&part)[R][T]) {
  using L = Lane<E, X>;
  constexpr int chains = R * T >= 8 ? 1 : 8 / (R * T);  // of additions
  constexpr int64_t bytes = L::count * int64_t(sizeof(E)) / packing<E>;
  Vec totals[chains][R][T];
  for (auto& chain : totals)
    for (auto& row : chain)
      for (Vec& total : row) total = zero();
  const auto at = [&](int r, int64_t k) { return w + (r * pitch + k) / packing<E>; };
  const auto step = [&](Vec(&chain)[R][T], int64_t k) {
    decltype(L::get(x)) right[T];
    for (int t = 0; t < T; ++t) right[t] = L::get(x + t * stride + k);
    for (int r = 0; r < R; ++r) {
      const auto left = L::get(at(r, k));
      for (int t = 0; t < T; ++t) chain[r][t] = L::add(left, right[t], chain[r][t]);
    }
  };
  int64_t k = begin;
  for (; k + chains * L::count <= end; k += chains * L::count)
    for (int c = 0; c < chains; ++c) {
      if (first && c * bytes % 64 < bytes)  // once a line
        for (int r = 0; r < R; ++r) prefetch(reinterpret_cast<const char*>(at(r, k + c * L::count)) + ahead);
      step(totals[c], k + c * L::count);
    }
  for (; k + L::count <= end; k += L::count) step(totals[0], k);
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < T; ++t) {
      part[r][t] = totals[0][r][t];
      for (int c = 1; c < chains; ++c) part[r][t] = part[r][t] + totals[c][r][t];
    }
  if (k == end) return;
  Vec rest[R][T];
  last_products(at(0, k), pitch, x + k, stride, end - k, rest);
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < T; ++t) part[r][t] = part[r][t] + rest[r][t];
}

// sums[r][t0 + t][i] of whole rows. With scales [R, blocks], one for each `block` columns; null where there are none.
template <int R, int T, class E, class X>
void dots(const E* w, int64_t pitch, const float* scales, int64_t block, const X* x, int64_t stride, int64_t columns, bool first,
          Sums* sums, int64_t t0, int64_t i) {
  Vec totals[R][T];
  if (scales) {
    const int64_t blocks = (columns + block - 1) / block;
    for (auto& row : totals)
      for (Vec& total : row) total = zero();
    for (int64_t b = 0; b < blocks; ++b) {
      Vec part[R][T];
      add_up(w, pitch, x, stride, b * block, std::min((b + 1) * block, columns), first, part);
      for (int r = 0; r < R; ++r)
        for (int t = 0; t < T; ++t) totals[r][t] = fma(part[r][t], splat(scales[r * blocks + b]), totals[r][t]);
    }
  } else {
    add_up(w, pitch, x, stride, 0, columns, first, totals);
  }
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < T; ++t) sums[r][t0 + t][i] = sum(totals[r][t]);
}

template <class E>
bool any_nan(const E* p, int64_t n) {
  uint8_t found = 0;  // a bool's compiler would not make vectors of
  for (int64_t i = 0; i < n; ++i) found |= uint8_t(is_nan(p[i]));
  return found;
}

// sums[r][t][i] of R rows of weights, `pitch` apart, and `tokens` rows of x.
template <int R, class E, class X>
void row_dots(const E* w, int64_t pitch, const float* scales, int64_t block, const X* x, int64_t stride, int64_t tokens,
              int64_t columns, Sums* sums, int64_t i) {
  int64_t t = 0;
  const auto next = [&](auto wide) {
    constexpr int T = decltype(wide)::value;
    for (; t + T <= tokens; t += T)
      dots<R, T>(w, pitch, scales, block, x + t * stride, stride, columns, t == 0, sums, t, i);
  };
  if constexpr (R > 1) {
    next(std::integral_constant<int, 4>{});
    next(std::integral_constant<int, 2>{});
  }
  next(std::integral_constant<int, 1>{});
  if constexpr (split_unit<E> != 1)
    for (int r = 0; r < R; ++r) {
      const float unit = any_nan(w + r * pitch, columns) ? std::numeric_limits<float>::quiet_NaN() : split_unit<E>;
      for (t = 0; t < tokens; ++t) sums[r][t][i] *= unit;
    }
}

// Calls find(R, n, pitch, t, tokens, sums, i) for the rows n, n + pitch, ... of R streams and tokens from t on, and put for what it
// finds. What is found for a row depends on it and its place from the end alone.
template <class Find, class Put>
void in_streams(int64_t begin, int64_t end, int64_t tokens, Find&& find, Put&& put) {
  const auto all = [&](auto of, int64_t from, int64_t pitch) {
    constexpr int R = decltype(of)::value;
    for (int64_t n = 0; n < pitch; n += dots_rows)
      for (int64_t t = 0; t < tokens; t += dots_tokens) {
        Sums sums[R];
        const int64_t some = std::min(tokens - t, dots_tokens), rows = std::min(pitch - n, dots_rows);
        for (int64_t i = 0; i < rows; ++i) find(of, from + n + i, pitch, t, some, sums, i);
        for (int r = 0; r < R; ++r)
          for (int64_t j = 0; j < some; ++j) put(t + j, from + r * pitch + n, sums[r][j], rows);
      }
  };
  const int64_t pitch = (end - begin) / streams;
  all(std::integral_constant<int, streams>{}, begin, pitch);
  all(std::integral_constant<int, 1>{}, begin + streams * pitch, end - begin - streams * pitch);
}

// Elements are multiplied as they are, and sums of rows scaled where a scale is a row's.
template <class E, class X, class Put>
void plain_dots(const Weights& w, int64_t begin, int64_t end, const X* x, int64_t stride, int64_t tokens, Put&& put) {
  in_streams(begin, end, tokens, [&](auto of, int64_t n, int64_t pitch, int64_t t, int64_t some, Sums* sums, int64_t i) {
    constexpr int R = decltype(of)::value;
    row_dots<R>(w.at<E>(n, 0), pitch * w.columns, nullptr, 0, x + t * stride, stride, some, w.columns, sums, i);
    for (int r = 0; w.scaled() && r < R; ++r)
      w.scales(n + r * pitch, [&](auto* scales) {
        for (int64_t j = 0; j < some; ++j) sums[r][j][i] *= widen(*scales);
      });
  }, put);
}

// Elements are multiplied as they are, and sums of blocks scaled.
template <class E, class X, class Put>
void block_dots(const Weights& w, int64_t begin, int64_t end, const X* x, int64_t stride, int64_t tokens, Put&& put) {
  const int64_t blocks = w.column_blocks();
  float* scales = Scratch<struct RowScales>::template get<float>(streams * blocks);
  in_streams(begin, end, tokens, [&](auto of, int64_t n, int64_t pitch, int64_t t, int64_t some, Sums* sums, int64_t i) {
    constexpr int R = decltype(of)::value;
    for (int r = 0; r < R; ++r)
      w.scales(n + r * pitch, [&](auto* from) {
        for (int64_t b = 0; b < blocks; ++b) scales[r * blocks + b] = widen(from[b]);
      });
    row_dots<R>(w.at<E>(n, 0), pitch * w.columns, scales, w.block_columns(), x + t * stride, stride, some, w.columns, sums, i);
  }, put);
}

// Elements become floats first, times their scales.
template <class Put>
void decoded_dots(const Weights& w, int64_t begin, int64_t end, const float* x, int64_t stride, int64_t tokens, Put&& put) {
  float* values = Scratch<struct RowValues>::template get<float>(streams * w.columns);
  in_streams(begin, end, tokens, [&](auto of, int64_t n, int64_t pitch, int64_t t, int64_t some, Sums* sums, int64_t i) {
    constexpr int R = decltype(of)::value;
    for (int r = 0; r < R; ++r) decode(w, 0, n + r * pitch, 0, w.columns, values + r * w.columns, w.columns);
    row_dots<R>(values, w.columns, nullptr, 0, x + t * stride, stride, some, w.columns, sums, i);
  }, put);
}

}  // namespace

// `put(t, n, sums, count)` with sums[i] = sum_k w[n + i, k] x[t, k] for the rows [begin, end) of w and every row t of x
// [tokens, columns], whose rows are `stride` apart. x is bfloat16 only where `multiplies_pairs`.
template <class X, class Put>
void by_dots(const Weights& w, int64_t begin, int64_t end, const X* x, int64_t stride, int64_t tokens, Put&& put) {
  visit(w.format.element, [&](auto element) {
    using E = decltype(element);
    if constexpr (std::is_same_v<E, float>) {
      if constexpr (std::is_same_v<X, float>) plain_dots<E>(w, begin, end, x, stride, tokens, put);
    } else if (!w.scaled() || w.block_columns() == w.columns) {
      plain_dots<E>(w, begin, end, x, stride, tokens, put);
    } else if (w.block_columns() % Lane<E, X>::count == 0) {
      block_dots<E>(w, begin, end, x, stride, tokens, put);
    } else if constexpr (std::is_same_v<X, float>) {
      decoded_dots(w, begin, end, x, stride, tokens, put);
    }
  });
}

}  // namespace deepport::DEEPPORT_LEVEL
