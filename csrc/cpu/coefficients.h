// What streams are mixed by: logits' functions, of one token or of as many as a vector has lanes, and the way back through them.
#pragma once

#include <cmath>
#include <type_traits>

#include "simd/math.h"
#include "simd/simd.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

// How a kernel makes its coefficients: `parts` of n, n and n * n rows, of which mhc_head has only the first.
struct Coefficients {
  const float *scale, *base;
  int64_t n, width, rows, iters;
  float eps, norm_eps;

  int64_t part(int64_t row) const { return row < n ? 0 : row < 2 * n ? 1 : 2; }
  int64_t sigmoids() const { return rows < 2 * n ? rows : 2 * n; }

  // 1 / sqrt(mean(x^2) + norm_eps)
  template <class T>
  float factor(const T* x) const {
    return 1.0f / std::sqrt(squares(x, n * width) / float(n * width) + norm_eps);
  }
};

// Coefficients are computed of one token, by floats, or of as many as a vector has lanes: then a number is a vector, the next
// token's in the next lane. The arithmetic, and each token's result, is the same.
template <class N>
constexpr int64_t lanes = std::is_same_v<N, Vec> ? Vec::lanes : 1;

template <class N>
N get(const float* p) {
  if constexpr (std::is_same_v<N, Vec>)
    return load(p);
  else
    return *p;
}

inline void put(float* p, float x) { *p = x; }
inline void put(float* p, Vec x) { store(p, x); }
inline float most(float a, float b) { return a > b ? a : b; }

template <class N>
N constant(float x) {
  if constexpr (std::is_same_v<N, Vec>)
    return splat(x);
  else
    return x;
}

// Of n lines of n numbers, which lie `inner` apart, the lines `outer`: each is divided by its sum plus eps. The factors are kept,
// unless null.
template <class N, class Count>
inline void divide(const float* from, float* to, float* factors, Count n, int64_t outer, int64_t inner, float eps) {
  for (int64_t i = 0; i < n; ++i, from += outer, to += outer) {
    N total = get<N>(from);
    for (int64_t j = 1; j < n; ++j) total = total + get<N>(from + j * inner);
    const N factor = constant<N>(1.0f) / (total + constant<N>(eps));
    for (int64_t j = 0; j < n; ++j) put(to + j * inner, get<N>(from + j * inner) * factor);
    if (factors) put(factors + i * lanes<N>, factor);
  }
}

template <class N, class Count>
inline void normalise(float* lines, Count n, int64_t outer, int64_t inner, float eps) {
  divide<N>(lines, lines, nullptr, n, outer, inner, eps);
}

// comb [n, n] of logits becomes softmax(comb) of each row.
template <class N, class Count>
inline void softmax(float* comb, Count n) {
  const int64_t step = lanes<N>;
  for (int64_t i = 0; i < n; ++i) {
    float* row = comb + i * n * step;
    N top = get<N>(row);
    for (int64_t j = 1; j < n; ++j) top = most(top, get<N>(row + j * step));
    for (int64_t j = 0; j < n; ++j) put(row + j * step, get<N>(row + j * step) - top);
  }
  each(n * n * step, [&](int64_t i, auto access) { access.put(comb + i, exp(access.get(comb + i))); });
  normalise<N>(comb, n, n * step, step, 0.0f);
}

template <class N, class Count>
inline void sinkhorn(float* comb, Count n, int64_t iters, float eps) {
  const int64_t step = lanes<N>, row = n * step;
  softmax<N>(comb, n);
  for (int64_t i = 0; i < n * n; ++i) put(comb + i * step, get<N>(comb + i * step) + constant<N>(eps));
  normalise<N>(comb, n, step, row, eps);
  for (int64_t i = 1; i < iters; ++i) {
    normalise<N>(comb, n, row, step, eps);
    normalise<N>(comb, n, step, row, eps);
  }
}

// With the usual four streams loops have a length that the compiler knows.
template <class F>
void with_count(int64_t n, F&& f) {
  if (n == 4)
    f(std::integral_constant<int64_t, 4>{});
  else
    f(n);
}

// From here on, the way back: of as many tokens as a vector has lanes.

inline int64_t divisions(int64_t iters) { return iters > 1 ? 2 * iters - 1 : 1; }

// Room for `sinkhorn_back`: softmax(comb), then of every division its results and factors.
inline int64_t trail_size(int64_t n, int64_t iters) { return (n * n + divisions(iters) * (n + 1) * n) * Vec::lanes; }

// The gradient of `divide`. Of a line y = x f with f = 1 / (sum(x) + eps): dx = f (dy - dy . y).
template <class Count>
inline void divide_back(const float* y, const float* factors, float* d, Count n, int64_t outer, int64_t inner) {
  for (int64_t i = 0; i < n; ++i, y += outer, d += outer) {
    Vec along = zero();
    for (int64_t j = 0; j < n; ++j) along = fma(load(d + j * inner), load(y + j * inner), along);
    const Vec factor = load(factors + i * Vec::lanes);
    for (int64_t j = 0; j < n; ++j) store(d + j * inner, factor * (load(d + j * inner) - along));
  }
}

// Of a row y = softmax(x): dx = y (dy - dy . y).
template <class Count>
inline void softmax_back(const float* y, float* d, Count n) {
  const int64_t step = Vec::lanes;
  for (int64_t i = 0; i < n; ++i, y += n * step, d += n * step) {
    Vec along = zero();
    for (int64_t j = 0; j < n; ++j) along = fma(load(d + j * step), load(y + j * step), along);
    for (int64_t j = 0; j < n; ++j) store(d + j * step, load(y + j * step) * (load(d + j * step) - along));
  }
}

// d [n, n], the gradient of sinkhorn(comb), becomes that of comb: the divisions are made again, and taken back from the last.
template <class Count>
inline void sinkhorn_back(const float* comb, float* d, float* trail, Count n, int64_t iters, float eps) {
  const int64_t step = Vec::lanes, row = n * step, square = n * row, last = divisions(iters) - 1;
  const auto after = [&](int64_t division) { return trail + square + division * (square + row); };
  const auto outer = [&](int64_t division) { return division % 2 ? row : step; };  // columns first
  const auto inner = [&](int64_t division) { return division % 2 ? step : row; };
  for (int64_t i = 0; i < square; i += step) store(trail + i, load(comb + i));
  softmax<Vec>(trail, n);
  for (int64_t i = 0; i < square; i += step) store(after(0) + i, load(trail + i) + splat(eps));
  for (int64_t k = 0; k <= last; ++k)
    divide<Vec>(after(k ? k - 1 : 0), after(k), after(k) + square, n, outer(k), inner(k), eps);
  for (int64_t k = last; k >= 0; --k) divide_back(after(k), after(k) + square, d, n, outer(k), inner(k));
  softmax_back(trail, d, n);
}

}  // namespace
}  // namespace deepport::DEEPPORT_LEVEL
