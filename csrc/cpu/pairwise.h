// Products of each of a few rows with each of others, which wait as vectors until their lanes are summed.
#pragma once

#include "simd/simd.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

// Products by lanes of K rows of x with M of d: s[k * pitch + m] is a vector.
template <int K, int M, class T>
void multiply_rows(const T* x, const T* d, int64_t width, float* s, int64_t pitch) {
  Vec found[K][M];
  for (auto& row : found)
    for (Vec& product : row) product = zero();
  each(width, [&](int64_t c, auto access) {
    Vec of_d[M];
    for (int m = 0; m < M; ++m) of_d[m] = access.get(d + m * width + c);
    for (int k = 0; k < K; ++k) {
      const Vec of_x = access.get(x + k * width + c);
      for (int m = 0; m < M; ++m) found[k][m] = fma(of_x, of_d[m], found[k][m]);
    }
  });
  for (int k = 0; k < K; ++k)
    for (int m = 0; m < M; ++m) store(s + (k * pitch + m) * Vec::lanes, found[k][m]);
}

// Of K rows of x with all n of d.
template <int K, class T>
void multiply_all(const T* x, const T* d, int64_t n, int64_t width, float* s) {
  int64_t m = 0;
  for (; m + 4 <= n; m += 4) multiply_rows<K, 4>(x, d + m * width, width, s + m * Vec::lanes, n);
  for (; m < n; ++m) multiply_rows<K, 1>(x, d + m * width, width, s + m * Vec::lanes, n);
}

// to[i] is the sum of the lanes of s[i].
void add_lanes(const float* s, int64_t count, float* to) {
  each(count, [&](int64_t i, auto access) {
    Vec found[Vec::lanes];
    for (int64_t j = 0; j < Vec::lanes; ++j) found[j] = i + j < count ? load(s + (i + j) * Vec::lanes) : zero();
    access.put(to + i, sums(found));
  });
}

}  // namespace
}  // namespace deepport::DEEPPORT_LEVEL
