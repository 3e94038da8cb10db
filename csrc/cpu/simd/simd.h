// Vectors of floats, and of pairs of bfloat16, at the level this file is compiled for. Intrinsics are confined to this folder.
//
// Vec holds `Vec::lanes` floats. Loads and stores need no alignment; `load_part`/`store_part` touch n < lanes elements, the rest
// reads as 0. A store to bfloat16 rounds to nearest even. `least` and `most` return b where a or b is NaN. `swapped` exchanges
// neighbours.
// `where_at_most(a, b, x)` is x where a <= b, else 0.
// `greater` and `number` (not NaN) are sets of lanes, a bit each; `store_chosen(p, x, set)` packs those lanes at p, and may write all
// `lanes` elements. `numbered(from)` has the bits of the integers from, from + 1, ... `sums(x)` has the sum of each of `lanes`
// vectors, and `transpose` turns their rows into columns. `store_normal` may store numbers below 2^-126 as 0, and is faster.
// Pairs holds 2 * lanes bfloat16; `dot(a, b, c)` adds to each lane of c the products of its two neighbours.
// Split is what a product makes of Pairs first, where they are no factors as they are: `split(x)`, and `load_split(p)` of any element,
// over `split_unit` of its type; where that is not 1, NaN (`is_nan`) is loaded as some number.
// `interleave(a, b, low, high)`: a[0], b[0], a[1], b[1], ...; `store_pairs(p, even, odd)` so, of floats, as store_normal rounds.
// Where `scales_pairs` of a small element's type, `load_pairs(p, exponent)` has the numbers times 2^exponent, if all are normal.
// Small elements (int8_t, e4m3, e4m3fnuz, e2m1_pair) load as the floats that they are.
// Tiles (`tiles.h`) only level `amx` has.
#pragma once

#include <cstdint>
#include <type_traits>

#include "types.h"

#if defined(__AVX512F__)
#include "simd/avx512.h"
#elif defined(__AVX2__)
#include "simd/avx2.h"
#else
#include "simd/generic.h"
#endif

#if defined(__AMX_BF16__)
#include "simd/tiles.h"
#endif

namespace deepport::DEEPPORT_LEVEL {

#if defined(__AMX_BF16__)
constexpr bool has_tiles = true;
#else
constexpr bool has_tiles = false;
struct Tiles {
  Tiles() {}
};
#endif

// Whether products of pairs are faster than those of floats.
#if defined(__AVX512BF16__) || defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
constexpr bool fast_pairs = true;
#else
constexpr bool fast_pairs = false;
#endif

// A hint that the cache line at p is needed soon. GCC takes a function that does nothing else for one without effect, and drops its
// calls: hence the empty instruction.
inline void prefetch(const void* p) {
  __builtin_prefetch(p);
  __asm__ volatile("" : : "r"(p));
}

// The same of every line of so many bytes.
inline void prefetch(const void* from, int64_t bytes) {
  const char* p = static_cast<const char*>(from);
  for (int64_t i = 0; i < bytes; i += 64) prefetch(p + i);
  if (bytes) prefetch(p + bytes - 1);
}

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

inline void store_chosen(float* p, Vec x, uint32_t lanes) {
  float whole[Vec::lanes];
  store(whole, x);
  for (; lanes; lanes &= lanes - 1) *p++ = whole[__builtin_ctz(lanes)];
}

inline Vec numbered(int32_t from) {
  int32_t bits[Vec::lanes];
  for (int i = 0; i < Vec::lanes; ++i) bits[i] = from + i;
  Vec x;
  std::memcpy(&x.r, bits, sizeof bits);
  return x;
}

inline Vec sums(const Vec (&x)[Vec::lanes]) {
  float each[Vec::lanes];
  for (int i = 0; i < Vec::lanes; ++i) each[i] = sum(x[i]);
  return load(each);
}

inline void store_normal(bfloat16* p, Vec x) { store(p, x); }

inline void interleave(Pairs a, Pairs b, Pairs& low, Pairs& high) {
  bfloat16 from[2][Pairs::lanes], to[2 * Pairs::lanes];
  store_pairs(from[0], a);
  store_pairs(from[1], b);
  for (int i = 0; i < 2 * Pairs::lanes; ++i) to[i] = from[i % 2][i / 2];
  low = load_pairs(to);
  high = load_pairs(to + Pairs::lanes);
}

// x 2^n of an integer n in [-252, 254], in two factors: 2^n may be too small for a float where x 2^n is not.
inline Vec times_power_of_two(Vec x, Vec n) {
  const Vec half = nearest(n * splat(0.5f));
  return x * power_of_two(half) * power_of_two(n - half);
}

#endif

// Numbers in an element of memory.
template <class T>
constexpr int64_t packing = std::is_same_v<T, e2m1_pair> ? 2 : 1;

template <class T>
inline Vec load_part(const T* p, int64_t n) {
  T whole[Vec::lanes] = {};
  std::memcpy(whole, p, size_t(n / packing<T>) * sizeof(T));
  return load(whole);
}

inline void store_normal(float* p, Vec x) { store(p, x); }

#if !defined(__AVX512BF16__)

inline void store_pairs(bfloat16* p, Vec even, Vec odd) {
  bfloat16 from[2][Vec::lanes];
  store_normal(from[0], even);
  store_normal(from[1], odd);
  for (int i = 0; i < 2 * Vec::lanes; ++i) p[i] = from[i % 2][i / 2];
}

#endif

// How `each` reads and writes: whole vectors, then what is left.
struct Whole {
  template <class T>
  Vec get(const T* p) const { return load(p); }
  template <class T>
  void put(T* p, Vec x) const { store(p, x); }
  template <class T>
  void put_normal(T* p, Vec x) const { store_normal(p, x); }
};

struct Part {
  int64_t n;
  template <class T>
  Vec get(const T* p) const { return load_part(p, n); }
  template <class T>
  void put(T* p, Vec x) const { store_part(p, x, n); }
  template <class T>
  void put_normal(T* p, Vec x) const { store_part(p, x, n); }
};

// f(i, access) for i = 0, lanes, 2 lanes, ... below n; access is Whole, and Part for a tail: `access.get(x + i)`.
template <class F>
inline void each(int64_t n, F&& f) {
  int64_t i = 0;
  for (; i + Vec::lanes <= n; i += Vec::lanes) f(i, Whole{});
  if (i < n) f(i, Part{n - i});
}

}  // namespace deepport::DEEPPORT_LEVEL
