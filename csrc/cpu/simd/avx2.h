// Eight lanes: AVX2 and FMA. Two products of bfloat16 are two multiplications of floats.
#pragma once

#include <immintrin.h>

namespace deepport::DEEPPORT_LEVEL {

struct Vec {
  static constexpr int lanes = 8;
  __m256 r;
};

struct Pairs {
  static constexpr int lanes = 16;
  __m256i r;
};

struct Split {
  Vec even, odd;
};

inline Vec splat(float x) { return {_mm256_set1_ps(x)}; }
inline Vec zero() { return {_mm256_setzero_ps()}; }

inline Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }

inline Vec load(const bfloat16* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))};
}

inline Vec load(const int8_t* p) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
}

// Sign, exponent and mantissa are put where a half has them, which is the same number times a power of two, subnormal or not.
inline Vec small_floats(__m128i wide, __m128i nan, float factor) {
  const __m128i half = _mm_and_si128(_mm_slli_epi16(wide, 7), _mm_set1_epi16(int16_t(0xbf80)));
  const __m128i bits = _mm_or_si128(half, _mm_and_si128(nan, _mm_set1_epi16(0x7e00)));
  return {_mm256_mul_ps(_mm256_cvtph_ps(bits), _mm256_set1_ps(factor))};
}

inline Vec load(const e4m3* p) {
  const __m128i wide = _mm_cvtepi8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))), low = _mm_set1_epi16(127);
  return small_floats(wide, _mm_cmpeq_epi16(_mm_and_si128(wide, low), low), 256.0f);
}

inline Vec load(const e4m3fnuz* p) {
  const __m128i wide = _mm_cvtepi8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  return small_floats(wide, _mm_cmpeq_epi16(wide, _mm_set1_epi16(-128)), 128.0f);
}

inline Vec load(const e2m1_pair* p) {
  int32_t bytes;
  std::memcpy(&bytes, p, sizeof bytes);
  const __m256i codes = _mm256_srlv_epi32(_mm256_set1_epi32(bytes), _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
  const __m256 sizes = _mm256_permutevar8x32_ps(_mm256_setr_ps(0, 0.5, 1, 1.5, 2, 3, 4, 6), codes);
  const __m256i sign = _mm256_slli_epi32(_mm256_and_si256(codes, _mm256_set1_epi32(8)), 28);
  return {_mm256_or_ps(sizes, _mm256_castsi256_ps(sign))};
}

inline void store(float* p, Vec x) { _mm256_storeu_ps(p, x.r); }

inline void store(bfloat16* p, Vec x) {
  const __m256i bits = _mm256_castps_si256(x.r), one = _mm256_set1_epi32(1);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), one);
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x.r, x.r, _CMP_UNORD_Q));
  const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
}

inline Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.r, b.r)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.r, b.r)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.r, b.r)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.r, b.r)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.r, b.r, c.r)}; }
inline Vec least(Vec a, Vec b) { return {_mm256_min_ps(a.r, b.r)}; }
inline Vec most(Vec a, Vec b) { return {_mm256_max_ps(a.r, b.r)}; }
inline Vec root(Vec x) { return {_mm256_sqrt_ps(x.r)}; }

inline Vec swapped(Vec x) { return {_mm256_permute_ps(x.r, 0xb1)}; }

inline Vec nearest(Vec x) {
  return {_mm256_round_ps(x.r, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

inline Vec power_of_two(Vec n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n.r), _mm256_set1_epi32(127));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23))};
}

inline float sum(Vec x) {
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(x.r), _mm256_extractf128_ps(x.r, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_shuffle_ps(four, four, 1)));
}

inline float largest(Vec x) {
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(x.r), _mm256_extractf128_ps(x.r, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_shuffle_ps(four, four, 1)));
}

inline void transpose(Vec (&x)[Vec::lanes]) {
  __m256 t[8], u[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(x[i].r, x[i + 1].r);
    t[i + 1] = _mm256_unpackhi_ps(x[i].r, x[i + 1].r);
  }
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; ++j) {
      u[i + 2 * j] = _mm256_shuffle_ps(t[i + j], t[i + j + 2], 0x44);
      u[i + 2 * j + 1] = _mm256_shuffle_ps(t[i + j], t[i + j + 2], 0xee);
    }
  for (int i = 0; i < 4; ++i) {
    x[i].r = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
    x[i + 4].r = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
  }
}

inline Vec where_at_most(Vec a, Vec b, Vec x) { return {_mm256_and_ps(_mm256_cmp_ps(a.r, b.r, _CMP_LE_OQ), x.r)}; }
inline uint32_t greater(Vec a, Vec b) { return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(a.r, b.r, _CMP_GT_OQ))); }
inline uint32_t number(Vec x) { return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(x.r, x.r, _CMP_ORD_Q))); }

inline Pairs load_pairs(const bfloat16* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }

inline void store_pairs(bfloat16* p, Pairs x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.r); }

inline Pairs splat_pair(const bfloat16* p) {
  int32_t both;
  std::memcpy(&both, p, sizeof both);
  return {_mm256_set1_epi32(both)};
}

inline Split split(Pairs x) {
  return {{_mm256_castsi256_ps(_mm256_slli_epi32(x.r, 16))},
          {_mm256_castsi256_ps(_mm256_and_si256(x.r, _mm256_set1_epi32(int32_t(0xffff0000u))))}};
}

inline Vec dot(Split a, Split b, Vec c) { return fma(a.odd, b.odd, fma(a.even, b.even, c)); }

inline Vec dot(Pairs a, Pairs b, Vec c) { return dot(split(a), split(b), c); }

// Quantised numbers (`formats.h`).

inline Pairs load_pairs(const e2m1_pair* p) {
  const __m128i low = _mm_setr_epi8(0x00, 0x00, char(0x80), char(0xc0), 0x00, 0x40, char(0x80), char(0xc0),
                                    0x00, 0x00, char(0x80), char(0xc0), 0x00, 0x40, char(0x80), char(0xc0));
  const __m128i high = _mm_setr_epi8(0x00, 0x3f, 0x3f, 0x3f, 0x40, 0x40, 0x40, 0x40, char(0x80), char(0xbf), char(0xbf),
                                     char(0xbf), char(0xc0), char(0xc0), char(0xc0), char(0xc0));
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)), nibble = _mm_set1_epi8(15);
  const __m128i codes = _mm_unpacklo_epi8(_mm_and_si128(bytes, nibble), _mm_and_si128(_mm_srli_epi16(bytes, 4), nibble));
  const __m128i l = _mm_shuffle_epi8(low, codes), h = _mm_shuffle_epi8(high, codes);
  return {_mm256_set_m128i(_mm_unpackhi_epi8(l, h), _mm_unpacklo_epi8(l, h))};
}

// Integers below 2^8 are exact: of their floats the lower halves are 0.
inline Pairs load_pairs(const int8_t* p) {
  const __m256i both = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256 even = _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(both, 16), 16));
  const __m256 odd = _mm256_cvtepi32_ps(_mm256_srai_epi32(both, 16));
  return {_mm256_or_si256(_mm256_srli_epi32(_mm256_castps_si256(even), 16), _mm256_castps_si256(odd))};
}

template <class E>
constexpr bool scales_pairs = std::is_same_v<E, e4m3> || std::is_same_v<E, e4m3fnuz>;

// Float8 times 2^exponent, right where every product is a normal bfloat16: of its float the lower half is 0. `lacking`: a half that
// has the same fields is the number over 2^lacking.
inline Pairs small_pairs(__m256i wide, __m256i nan, int exponent, int lacking) {
  const __m256i half = _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16(int16_t(0xbf80)));
  const __m256i bits = _mm256_or_si256(half, _mm256_and_si256(nan, _mm256_set1_epi16(0x7e00)));
  const __m256 power = _mm256_castsi256_ps(_mm256_set1_epi32((exponent + lacking + 127) << 23));
  const auto upper = [&](__m128i eight) { return _mm256_srli_epi32(_mm256_castps_si256(_mm256_mul_ps(_mm256_cvtph_ps(eight), power)), 16); };
  const __m256i both = _mm256_packus_epi32(upper(_mm256_castsi256_si128(bits)), upper(_mm256_extracti128_si256(bits, 1)));
  return {_mm256_permute4x64_epi64(both, 0xd8)};
}

inline Pairs load_pairs(const e4m3* p, int exponent) {
  const __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), low = _mm256_set1_epi16(127);
  return small_pairs(wide, _mm256_cmpeq_epi16(_mm256_and_si256(wide, low), low), exponent, 8);
}

inline Pairs load_pairs(const e4m3fnuz* p, int exponent) {
  const __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return small_pairs(wide, _mm256_cmpeq_epi16(wide, _mm256_set1_epi16(-128)), exponent, 7);
}

#define DEEPPORT_SPLITS_FLOATS  // products with weights of other types take them apart as Split
#define DEEPPORT_FOURS  // numbers of four bits become factors in registers (`fours.h`)

inline Split load_split(const float* p) {
  const __m256 low = _mm256_loadu_ps(p), high = _mm256_loadu_ps(p + 8);
  const auto in_order = [](__m256 x) { return Vec{_mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(x), 0xd8))}; };
  return {in_order(_mm256_shuffle_ps(low, high, 0x88)), in_order(_mm256_shuffle_ps(low, high, 0xdd))};
}

inline Split load_split(const bfloat16* p) { return split(load_pairs(p)); }
inline Split load_split(const e2m1_pair* p) { return split(load_pairs(p)); }

// Of 64 numbers the first of every four, and so on, the first half's in the lower half of a vector: of those that are 16 apart.
inline void load_spread(const e2m1_pair* p, Vec (&factors)[8]) {
  const __m256i low = _mm256_broadcastsi128_si256(_mm_setr_epi8(0x00, 0x00, char(0x80), char(0xc0), 0x00, 0x40, char(0x80), char(0xc0),
                                                                0x00, 0x00, char(0x80), char(0xc0), 0x00, 0x40, char(0x80), char(0xc0)));
  const __m256i high = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0x00, 0x3f, 0x3f, 0x3f, 0x40, 0x40, 0x40, 0x40, char(0x80), char(0xbf), char(0xbf), char(0xbf), char(0xc0),
                    char(0xc0), char(0xc0), char(0xc0)));
  const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), nibble = _mm256_set1_epi8(15);
  const __m256i codes[2] = {_mm256_and_si256(bytes, nibble), _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble)};
  for (int h = 0; h < 2; ++h) {
    const __m256i l = _mm256_shuffle_epi8(low, codes[h]), u = _mm256_shuffle_epi8(high, codes[h]);
    const Split first = split({_mm256_unpacklo_epi8(l, u)}), second = split({_mm256_unpackhi_epi8(l, u)});
    factors[h] = first.even, factors[2 + h] = first.odd, factors[4 + h] = second.even, factors[6 + h] = second.odd;
  }
}

// Two powers of two, each in four lanes.
inline Vec load_spread(const e8m0* p) {
  uint16_t both;
  std::memcpy(&both, p, sizeof both);
  const __m128i each = _mm_shuffle_epi8(_mm_cvtsi32_si128(both), _mm_set1_epi64x(0x0101010100000000));
  const __m256i high = _mm256_slli_epi32(_mm256_cvtepu8_epi32(each), 23);
  // 2^-127 is subnormal; 255 is NaN.
  const __m256i quiet = _mm256_set1_epi32(0x400000), nan = _mm256_cmpeq_epi32(high, _mm256_set1_epi32(0x7f800000));
  return {_mm256_castsi256_ps(_mm256_or_si256(_mm256_max_epu32(high, quiet), _mm256_and_si256(nan, quiet)))};
}

inline Split load_split(const int8_t* p) {
  const __m256i both = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return {{_mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(both, 16), 16))},
          {_mm256_cvtepi32_ps(_mm256_srai_epi32(both, 16))}};
}

// Sign, exponent and mantissa are put where a half has them, as in `small_floats`, of every other byte.
template <class E>
inline Split split_small(const E* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), fields = _mm_set1_epi16(int16_t(0xbf80));
  const auto floats = [&](__m128i high) { return Vec{_mm256_cvtph_ps(_mm_and_si128(_mm_srai_epi16(high, 1), fields))}; };
  return {floats(_mm_slli_epi16(bytes, 8)), floats(bytes)};
}

inline Split load_split(const e4m3* p) { return split_small(p); }
inline Split load_split(const e4m3fnuz* p) { return split_small(p); }

// Who sums products multiplies by this at last, and looks for NaN by itself, which is a number here: both cost as much as the rest.
template <class E>
constexpr float split_unit = 1;
template <>
inline constexpr float split_unit<e4m3> = 256;
template <>
inline constexpr float split_unit<e4m3fnuz> = 128;

}  // namespace deepport::DEEPPORT_LEVEL
