// Vectors of floats, and of pairs of bfloat16, at the level this file is compiled for. Intrinsics are confined to this folder.
//
// Vec holds `Vec::lanes` floats. Loads and stores need no alignment; `load_part`/`store_part` touch n < lanes elements, the rest
// reads as 0. A store to bfloat16 rounds to nearest even. `least` and `most` return b where a or b is NaN.
// Pairs holds 2 * lanes bfloat16; `dot(a, b, c)` adds to each lane of c the products of its two neighbours.
#pragma once

#include <cstdint>

#include "types.h"

#if defined(__AVX512F__)
#include "simd/avx512.h"
#elif defined(__AVX2__)
#include "simd/avx2.h"
#else
#include "simd/generic.h"
#endif

namespace deepport::DEEPPORT_LEVEL {

#if !defined(__AVX512F__)  // which has masks

inline Vec load_part(const float* p, int64_t n) {
  float whole[Vec::lanes] = {};
  for (int64_t i = 0; i < n; ++i) whole[i] = p[i];
  return load(whole);
}

inline Vec load_part(const bfloat16* p, int64_t n) {
  float whole[Vec::lanes] = {};
  for (int64_t i = 0; i < n; ++i) whole[i] = widen(p[i]);
  return load(whole);
}

template <class T>
inline void store_part(T* p, Vec x, int64_t n) {
  float whole[Vec::lanes];
  store(whole, x);
  for (int64_t i = 0; i < n; ++i) p[i] = narrow<T>(whole[i]);
}

#endif

// How `each` reads and writes: whole vectors, then what is left.
struct Whole {
  template <class T>
  Vec get(const T* p) const { return load(p); }
  template <class T>
  void put(T* p, Vec x) const { store(p, x); }
};

struct Part {
  int64_t n;
  template <class T>
  Vec get(const T* p) const { return load_part(p, n); }
  template <class T>
  void put(T* p, Vec x) const { store_part(p, x, n); }
};

// f(i, access) for i = 0, lanes, 2 lanes, ... below n; access is Whole, and Part for a tail: `access.get(x + i)`.
template <class F>
inline void each(int64_t n, F&& f) {
  int64_t i = 0;
  for (; i + Vec::lanes <= n; i += Vec::lanes) f(i, Whole{});
  if (i < n) f(i, Part{n - i});
}

}  // namespace deepport::DEEPPORT_LEVEL
