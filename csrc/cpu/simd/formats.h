// Quantised numbers as pairs of bfloat16, exactly: `load_pairs(p)` of `Pairs::lanes` values that lie at p.
//
// e4m3's subnormals are normal bfloat16, which products of pairs do not flush. Tables, where there are no instructions for it: to
// narrow what `load` computes takes twice as long at level avx2, and 27 times at scalar (one token by fp8 weights).
#pragma once

#include "simd/simd.h"

namespace deepport::DEEPPORT_LEVEL {

// The bits of bfloat16 by code.
constexpr uint16_t e2m1_values[16] = {0x0000, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0,
                                      0x8000, 0xbf00, 0xbf80, 0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0};

// Of e4m3 with an exponent's bias, by arithmetic for normal numbers; what is subnormal is m 2^(-2 - bias).
constexpr uint16_t float8_value(unsigned code, int bias) {
  const unsigned sign = (code & 0x80) << 8, m = code & 7, e = code >> 3 & 15;
  if (e) return uint16_t(sign | (e + unsigned(127 - bias)) << 7 | m << 4);
  if (!m) return uint16_t(sign);
  const unsigned top = m >= 4 ? 2 : m >= 2 ? 1 : 0;
  return uint16_t(sign | (unsigned(125 - bias) + top) << 7 | ((m << (7 - top)) & 0x7f));
}

struct Float8Values {
  uint16_t of[256];
  constexpr Float8Values(int bias, unsigned nan) : of() {
    for (unsigned code = 0; code < 256; ++code) of[code] = (code & nan) == nan ? 0x7fc0 : float8_value(code, bias);
    if (nan == 0x80)  // the only one, where negative zero would be
      for (unsigned code = 0x81; code < 256; ++code) of[code] = float8_value(code, bias);
  }
};

constexpr Float8Values e4m3_values(7, 0x7f), e4m3fnuz_values(8, 0x80);

inline uint16_t value(e4m3 x) { return e4m3_values.of[x.bits]; }
inline uint16_t value(e4m3fnuz x) { return e4m3fnuz_values.of[x.bits]; }
inline uint16_t value(int8_t x) { return narrow<bfloat16>(float(x)).bits; }

template <class E>
inline Pairs load_pairs(const E* p) {
  bfloat16 values[Pairs::lanes];
  for (int i = 0; i < Pairs::lanes; ++i) values[i].bits = value(p[i]);
  return load_pairs(values);
}

#if !defined(__AVX2__)

inline Pairs load_pairs(const e2m1_pair* p) {
  bfloat16 values[Pairs::lanes];
  for (int i = 0; i < Pairs::lanes; ++i) values[i].bits = e2m1_values[p[i / 2].bits >> i % 2 * 4 & 15];
  return load_pairs(values);
}

#endif

#if !defined(__AVX2__) || defined(__AVX512F__)

using Split = Pairs;

inline Split split(Pairs x) { return x; }

template <class E>
inline Split load_split(const E* p) {
  return load_pairs(p);
}

template <class E>
constexpr float split_unit = 1;

#endif

inline bool is_nan(e4m3 x) { return (x.bits & 0x7f) == 0x7f; }
inline bool is_nan(e4m3fnuz x) { return x.bits == 0x80; }

// n < Pairs::lanes values, the rest 0; n is even where two values are packed.
template <class E>
inline Pairs load_pairs_part(const E* p, int64_t n) {
  E whole[Pairs::lanes / packing<E>] = {};
  std::memcpy(whole, p, size_t(n / packing<E>) * sizeof(E));
  return load_pairs(whole);
}

template <class E>
inline Split load_split_part(const E* p, int64_t n) {
  E whole[Pairs::lanes / packing<E>] = {};
  std::memcpy(whole, p, size_t(n / packing<E>) * sizeof(E));
  return load_split(whole);
}

}  // namespace deepport::DEEPPORT_LEVEL
