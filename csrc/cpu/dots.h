// Products of weights with few rows of activations: each row of weights is read once, as it lies, and is its own sum.
#pragma once

#include "expand.h"
#include "scratch.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

// What numbers of type X are multiplied as, and how.
template <class X>
struct Lane;

template <>
struct Lane<bfloat16> {
  static constexpr int64_t count = Pairs::lanes;
  template <class E>
  static Pairs get(const E* p) { return load_pairs(p); }
  template <class E>
  static Pairs part(const E* p, int64_t n) { return load_pairs_part(p, n); }
  static Vec add(Pairs a, Pairs b, Vec c) { return dot(a, b, c); }
};

template <>
struct Lane<float> {
  static constexpr int64_t count = Vec::lanes;
  template <class E>
  static Vec get(const E* p) { return load(p); }
  template <class E>
  static Vec part(const E* p, int64_t n) { return load_part(p, n); }
  static Vec add(Vec a, Vec b, Vec c) { return fma(a, b, c); }
};

constexpr int64_t dots_rows = 16;   // of weights, whose sums are handed on together
constexpr int64_t dots_tokens = 8;  // that share rows while these are in the nearest cache

using Sums = float[dots_tokens][dots_rows];

// sums[t][r] = sum_k w[r, k] x[t, k] of R rows of weights and T of x, in several chains of additions where these are few. With
// scales [R, held], one for each `Lane<X>::count` values.
template <int R, int T, bool scaled, class E, class X>
void dots(const E* w, const float* scales, int64_t held, const X* x, int64_t stride, int64_t columns, Sums& sums, int64_t t0,
          int64_t r0) {
  using L = Lane<X>;
  constexpr int chains = R * T >= 8 ? 1 : 8 / (R * T);  // of additions
  Vec totals[chains][R][T];
  for (auto& chain : totals)
    for (auto& row : chain)
      for (Vec& total : row) total = zero();
  const auto step = [&](Vec(&chain)[R][T], int64_t k, auto&& read) {
    decltype(read(x)) right[T];
    for (int t = 0; t < T; ++t) right[t] = read(x + t * stride + k);
    for (int r = 0; r < R; ++r) {
      const auto left = read(w + (r * columns + k) / packing<E>);
      prefetch(w + ((R + r) * columns + k) / packing<E>);  // of the rows that come next
      for (int t = 0; t < T; ++t) {
        if constexpr (scaled)
          chain[r][t] = fma(L::add(left, right[t], zero()), splat(scales[r * held + k / L::count]), chain[r][t]);
        else
          chain[r][t] = L::add(left, right[t], chain[r][t]);
      }
    }
  };
  const auto all = [](auto* p) { return L::get(p); };
  int64_t k = 0;
  for (; k + chains * L::count <= columns; k += chains * L::count)
    for (int c = 0; c < chains; ++c) step(totals[c], k + c * L::count, all);
  for (; k + L::count <= columns; k += L::count) step(totals[0], k, all);
  if (k < columns) step(totals[0], k, [&](auto* p) { return L::part(p, columns - k); });
  for (int r = 0; r < R; ++r)
    for (int t = 0; t < T; ++t) {
      for (int c = 1; c < chains; ++c) totals[0][r][t] = totals[0][r][t] + totals[c][r][t];
      sums[t0 + t][r0 + r] = sum(totals[0][r][t]);
    }
}

// The scales of a row of blocks, each `times` over.
template <class S>
void spread_scales(const S* from, int64_t blocks, int64_t times, float* scales) {
  if (times == 1) {
    for (int64_t j = 0; j < blocks; ++j) scales[j] = widen(from[j]);
  } else {
    for (int64_t j = 0; j < blocks; ++j) std::fill_n(scales + j * times, times, widen(from[j]));
  }
}

// sums[t][r] of `rows` rows of weights that follow each other, and `tokens` rows of x.
template <bool scaled, class E, class X>
void row_dots(const E* w, const float* scales, int64_t held, const X* x, int64_t stride, int64_t rows, int64_t tokens,
              int64_t columns, Sums& sums) {
  const auto next = [&](auto tall, auto wide, int64_t r, int64_t& t) {
    constexpr int R = decltype(tall)::value, T = decltype(wide)::value;
    for (; t + T <= tokens; t += T)
      dots<R, T, scaled>(w + r * columns / packing<E>, scales + r * held, held, x + t * stride, stride, columns, sums, t, r);
  };
  constexpr std::integral_constant<int, 1> one{};
  constexpr std::integral_constant<int, 2> two{};
  constexpr std::integral_constant<int, 4> four{};
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    int64_t t = 0;
    next(four, four, r, t);
    next(four, two, r, t);
    next(four, one, r, t);
  }
  for (; r < rows; ++r) {
    int64_t t = 0;
    next(one, one, r, t);
  }
}

// Calls find(n, rows, t, tokens, sums) for groups of rows from n on and tokens from t on, and put for what it finds.
template <class Find, class Put>
void grouped_rows(int64_t begin, int64_t end, int64_t tokens, Find&& find, Put&& put) {
  for (int64_t n = begin; n < end; n += dots_rows)
    for (int64_t t = 0; t < tokens; t += dots_tokens) {
      Sums sums;
      const int64_t some = std::min(tokens - t, dots_tokens), rows = std::min(end - n, dots_rows);
      find(n, rows, t, some, sums);
      for (int64_t j = 0; j < some; ++j) put(t + j, n, sums[j], rows);
    }
}

// Elements are multiplied as they are, and sums of rows scaled where a scale is a row's.
template <class E, class Put>
void plain_dots(const Weights& w, int64_t begin, int64_t end, const bfloat16* x, int64_t stride, int64_t tokens, Put&& put) {
  grouped_rows(begin, end, tokens, [&](int64_t n, int64_t rows, int64_t t, int64_t some, Sums& sums) {
    row_dots<false>(w.at<E>(n, 0), nullptr, 0, x + t * stride, stride, rows, some, w.columns, sums);
    for (int64_t r = 0; w.scaled() && r < rows; ++r)
      w.scales(n + r, [&](auto* scales) {
        for (int64_t j = 0; j < some; ++j) sums[j][r] *= widen(*scales);
      });
  }, put);
}

// Elements are multiplied as they are, and sums of blocks scaled.
template <class E, class Put>
void block_dots(const Weights& w, int64_t begin, int64_t end, const bfloat16* x, int64_t stride, int64_t tokens, Put&& put) {
  const int64_t blocks = w.column_blocks(), times = w.block_columns() / Pairs::lanes, held = blocks * times;
  float* scales = Scratch<struct RowScales>::template get<float>(dots_rows * held);
  grouped_rows(begin, end, tokens, [&](int64_t n, int64_t rows, int64_t t, int64_t some, Sums& sums) {
    for (int64_t r = 0; r < rows; ++r)
      w.scales(n + r, [&](auto* from) { spread_scales(from, blocks, times, scales + r * held); });
    row_dots<true>(w.at<E>(n, 0), scales, held, x + t * stride, stride, rows, some, w.columns, sums);
  }, put);
}

// Floats as they are, and anything else as floats of a few rows after others.
template <class Put>
void wide_dots(const Weights& w, int64_t begin, int64_t end, const float* x, int64_t stride, int64_t tokens, Put&& put) {
  grouped_rows(begin, end, tokens, [&](int64_t n, int64_t rows, int64_t t, int64_t some, Sums& sums) {
    const auto with = [&](const auto* of) { row_dots<false>(of, nullptr, 0, x + t * stride, stride, rows, some, w.columns, sums); };
    if (w.scaled()) {
      float* values = Scratch<struct RowValues>::template get<float>(dots_rows * w.columns);
      for (int64_t r = 0; r < rows; ++r) decode(w, 0, n + r, 0, w.columns, values + r * w.columns, w.columns);
      with(values);
    } else if (w.format.element == Element::float32) {
      with(w.at<float>(n, 0));
    } else {
      with(w.at<bfloat16>(n, 0));
    }
  }, put);
}

}  // namespace

// `put(t, n, sums, count)` with sums[i] = sum_k w[n + i, k] x[t, k] for the rows [begin, end) of w and every row t of x
// [tokens, columns], whose rows are `stride` apart. x is bfloat16 only where `multiplies_pairs`.
template <class X, class Put>
void by_dots(const Weights& w, int64_t begin, int64_t end, const X* x, int64_t stride, int64_t tokens, Put&& put) {
  if constexpr (std::is_same_v<X, float>)
    wide_dots(w, begin, end, x, stride, tokens, put);
  else
    visit(w.format.element, [&](auto element) {
      using E = decltype(element);
      if constexpr (std::is_same_v<E, bfloat16>)
        plain_dots<E>(w, begin, end, x, stride, tokens, put);
      else if constexpr (!std::is_same_v<E, float>)
        w.block_columns() == w.columns ? plain_dots<E>(w, begin, end, x, stride, tokens, put)
                                       : block_dots<E>(w, begin, end, x, stride, tokens, put);
    });
}

}  // namespace deepport::DEEPPORT_LEVEL
