// Sixteen lanes: AVX-512 (F, BW, DQ, VL), with BF16's own dot product where the level has it.
#pragma once

#include <immintrin.h>

namespace deepport::DEEPPORT_LEVEL {

struct Vec {
  static constexpr int lanes = 16;
  __m512 r;
};

struct Pairs {
  static constexpr int lanes = 32;
  __m512i r;
};

inline Vec splat(float x) { return {_mm512_set1_ps(x)}; }
inline Vec zero() { return {_mm512_setzero_ps()}; }

inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }

inline Vec load(const bfloat16* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}

inline __mmask16 first(int64_t n) { return __mmask16((1u << n) - 1); }

inline Vec load_part(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }

inline Vec load_part(const bfloat16* p, int64_t n) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(n), p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}

inline Vec load(const int8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}

// Sign, exponent and mantissa are put where a half has them, which is the same number times a power of two, subnormal or not.
inline Vec small_floats(__m256i wide, __mmask16 nan, float factor) {
  const __m256i half = _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16(int16_t(0xbf80)));
  const __m256i bits = _mm256_mask_mov_epi16(half, nan, _mm256_set1_epi16(0x7e00));
  return {_mm512_mul_ps(_mm512_cvtph_ps(bits), _mm512_set1_ps(factor))};
}

inline Vec load(const e4m3* p) {
  const __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), low = _mm256_set1_epi16(127);
  return small_floats(wide, _mm256_cmpeq_epi16_mask(_mm256_and_si256(wide, low), low), 256.0f);
}

inline Vec load(const e4m3fnuz* p) {
  const __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return small_floats(wide, _mm256_cmpeq_epi16_mask(wide, _mm256_set1_epi16(-128)), 128.0f);
}

inline Vec load(const e2m1_pair* p) {
  const __m512 values = _mm512_setr_ps(0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0f, -0.5, -1, -1.5, -2, -3, -4, -6);
  const __m512i bytes = _mm512_cvtepu8_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  return {_mm512_permutexvar_ps(_mm512_or_si512(bytes, _mm512_slli_epi64(bytes, 28)), values)};  // by the lowest four bits
}

// Rounded by hand: the instruction that does it flushes numbers below 2^-126 to zero.
inline __m256i rounded_halves(Vec x) {
  const __m512i bits = _mm512_castps_si512(x.r), one = _mm512_set1_epi32(1);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), one);
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(x.r, x.r, _CMP_UNORD_Q);
  const __m512i kept = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16));
}

inline void store(float* p, Vec x) { _mm512_storeu_ps(p, x.r); }
inline void store(bfloat16* p, Vec x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), rounded_halves(x)); }
inline void store_part(float* p, Vec x, int64_t n) { _mm512_mask_storeu_ps(p, first(n), x.r); }
inline void store_part(bfloat16* p, Vec x, int64_t n) { _mm256_mask_storeu_epi16(p, first(n), rounded_halves(x)); }

inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.r, b.r)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.r, b.r)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.r, b.r)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.r, b.r)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.r, b.r, c.r)}; }
inline Vec least(Vec a, Vec b) { return {_mm512_min_ps(a.r, b.r)}; }
inline Vec most(Vec a, Vec b) { return {_mm512_max_ps(a.r, b.r)}; }
inline Vec root(Vec x) { return {_mm512_sqrt_ps(x.r)}; }

inline Vec swapped(Vec x) { return {_mm512_permute_ps(x.r, 0xb1)}; }

inline Vec nearest(Vec x) {
  return {_mm512_roundscale_ps(x.r, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

inline Vec power_of_two(Vec n) {
  const __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n.r), _mm512_set1_epi32(127));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23))};
}

inline Vec times_power_of_two(Vec x, Vec n) { return {_mm512_scalef_ps(x.r, n.r)}; }

inline Vec numbered(int32_t from) {
  const __m512i count = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_set1_epi32(from), count))};
}

inline float sum(Vec x) { return _mm512_reduce_add_ps(x.r); }
inline float largest(Vec x) { return _mm512_reduce_max_ps(x.r); }

// Every step leaves half as many vectors, of twice as many partial sums each.
inline Vec sums(const Vec (&x)[Vec::lanes]) {
  __m512 pairs[8], fours[4];
  for (int i = 0; i < 8; ++i)
    pairs[i] = _mm512_add_ps(_mm512_unpacklo_ps(x[2 * i].r, x[2 * i + 1].r), _mm512_unpackhi_ps(x[2 * i].r, x[2 * i + 1].r));
  for (int i = 0; i < 4; ++i) {
    const __m512d a = _mm512_castps_pd(pairs[2 * i]), b = _mm512_castps_pd(pairs[2 * i + 1]);
    fours[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  }
  const auto halves = [](__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  };
  const __m512 low = halves(fours[0], fours[1]), high = halves(fours[2], fours[3]);
  return {halves(low, high)};
}

inline void transpose(Vec (&x)[Vec::lanes]) {
  __m512 t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(x[i].r, x[i + 1].r);
    t[i + 1] = _mm512_unpackhi_ps(x[i].r, x[i + 1].r);
  }
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; ++j) {
      const __m512d a = _mm512_castps_pd(t[i + j]), b = _mm512_castps_pd(t[i + j + 2]);
      x[i + 2 * j].r = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
      x[i + 2 * j + 1].r = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    }
  for (int i = 0; i < 4; ++i) {
    const __m512 a = _mm512_shuffle_f32x4(x[i].r, x[i + 4].r, 0x88), b = _mm512_shuffle_f32x4(x[i + 8].r, x[i + 12].r, 0x88);
    const __m512 c = _mm512_shuffle_f32x4(x[i].r, x[i + 4].r, 0xdd), d = _mm512_shuffle_f32x4(x[i + 8].r, x[i + 12].r, 0xdd);
    x[i].r = _mm512_shuffle_f32x4(a, b, 0x88);
    x[i + 8].r = _mm512_shuffle_f32x4(a, b, 0xdd);
    x[i + 4].r = _mm512_shuffle_f32x4(c, d, 0x88);
    x[i + 12].r = _mm512_shuffle_f32x4(c, d, 0xdd);
  }
}

inline Vec where_at_most(Vec a, Vec b, Vec x) { return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a.r, b.r, _CMP_LE_OQ), x.r)}; }
inline uint32_t greater(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.r, b.r, _CMP_GT_OQ); }
inline uint32_t number(Vec x) { return _mm512_cmp_ps_mask(x.r, x.r, _CMP_ORD_Q); }

inline void store_chosen(float* p, Vec x, uint32_t lanes) {
  _mm512_storeu_ps(p, _mm512_maskz_compress_ps(__mmask16(lanes), x.r));
}

inline Pairs load_pairs(const bfloat16* p) { return {_mm512_loadu_si512(p)}; }
inline void store_pairs(bfloat16* p, Pairs x) { _mm512_storeu_si512(p, x.r); }

inline void interleave(Pairs a, Pairs b, Pairs& low, Pairs& high) {
  const __m512i even = _mm512_unpacklo_epi16(a.r, b.r), odd = _mm512_unpackhi_epi16(a.r, b.r);
  low.r = _mm512_permutex2var_epi64(even, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), odd);
  high.r = _mm512_permutex2var_epi64(even, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), odd);
}

// What four bits are, twice over: for indices whose fifth bit is of another number.
inline __m512i values_of_four_bits() {
  alignas(64) static constexpr uint16_t values[32] = {0,      0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0,
                                                      0x8000, 0xbf00, 0xbf80, 0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0,
                                                      0,      0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0,
                                                      0x8000, 0xbf00, 0xbf80, 0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0};
  return _mm512_load_si512(values);
}

// Numbers that lie one after the other, times 2^exponent: right where that has the exponent of no number below 2^-126.
inline Pairs load_pairs(const e2m1_pair* p, int exponent) {
  const __m512i plain = values_of_four_bits();
  const __m512i scaled = _mm512_mask_add_epi16(plain, 0xfefefefe, plain, _mm512_set1_epi16(int16_t(exponent * 128)));
  // Each word of four numbers is put in four places, and shifted so that the lowest bits are the place's own number.
  const __m512i all = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m512i words = _mm512_shuffle_epi8(
      all, _mm512_set_epi64(0x0f0e0f0e0f0e0f0e, 0x0d0c0d0c0d0c0d0c, 0x0b0a0b0a0b0a0b0a, 0x0908090809080908, 0x0706070607060706,
                            0x0504050405040504, 0x0302030203020302, 0x0100010001000100));
  return {_mm512_permutexvar_epi16(_mm512_srlv_epi16(words, _mm512_set1_epi64(0x000c000800040000)), scaled)};
}

#if defined(__AVX512BF16__)
#define DEEPPORT_FOURS  // numbers of four bits become factors in registers (`fours.h`)
#endif

// Of 4 * 32 numbers that lie one after the other: the first of every four, the second, ...
inline void load_spread(const e2m1_pair* p, Pairs (&parts)[4]) {
  const __m512i table = values_of_four_bits(), words = _mm512_loadu_si512(p);
  parts[0].r = _mm512_permutexvar_epi16(words, table);
  parts[1].r = _mm512_permutexvar_epi16(_mm512_srli_epi16(words, 4), table);
  parts[2].r = _mm512_permutexvar_epi16(_mm512_srli_epi16(words, 8), table);
  parts[3].r = _mm512_permutexvar_epi16(_mm512_srli_epi16(words, 12), table);
}

// Four powers of two, each in four lanes.
inline Vec load_spread(const e8m0* p) {
  int32_t four;
  std::memcpy(&four, p, sizeof four);
  const __m512i high = _mm512_shuffle_epi8(_mm512_set1_epi32(four),
                                           _mm512_set_epi64(0x0380808003808080, 0x0380808003808080, 0x0280808002808080,
                                                            0x0280808002808080, 0x0180808001808080, 0x0180808001808080,
                                                            0x0080808000808080, 0x0080808000808080));
  // 2^-127 is subnormal; 255 is NaN.
  const __m512i bits = _mm512_max_epu32(_mm512_srli_epi32(high, 1), _mm512_set1_epi32(0x400000));
  const __mmask16 nan = _mm512_cmpeq_epi32_mask(bits, _mm512_set1_epi32(0x7f800000));
  return {_mm512_castsi512_ps(_mm512_mask_mov_epi32(bits, nan, _mm512_set1_epi32(0x7fc00000)))};
}

inline Pairs splat_pair(const bfloat16* p) {
  int32_t both;
  std::memcpy(&both, p, sizeof both);
  return {_mm512_set1_epi32(both)};
}

#if defined(__AVX512BF16__)

inline void store_normal(bfloat16* p, Vec x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(x.r));
}

inline void store_pairs(bfloat16* p, Vec even, Vec odd) {
  alignas(64) static constexpr uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                     8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(odd.r, even.r);
  _mm512_storeu_si512(p, _mm512_permutexvar_epi16(_mm512_load_si512(order), both));
}

inline Vec dot(Pairs a, Pairs b, Vec c) { return {_mm512_dpbf16_ps(c.r, (__m512bh)a.r, (__m512bh)b.r)}; }

#else

inline void store_normal(bfloat16* p, Vec x) { store(p, x); }

inline Vec dot(Pairs a, Pairs b, Vec c) {
  const __m512i high = _mm512_set1_epi32(int32_t(0xffff0000u));
  const __m512 first = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(a.r, 16)),
                                       _mm512_castsi512_ps(_mm512_slli_epi32(b.r, 16)), c.r);
  return {_mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(a.r, high)),
                          _mm512_castsi512_ps(_mm512_and_si512(b.r, high)), first)};
}

#endif

// Quantised numbers (`formats.h`).

template <class E>
constexpr bool scales_pairs = std::is_same_v<E, e2m1_pair> || std::is_same_v<E, e4m3>;

// A byte becomes two words whose lowest bits are a number each.
inline Pairs load_pairs(const e2m1_pair* p) {
  const __m512i codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return {_mm512_permutexvar_epi16(_mm512_or_si512(codes, _mm512_slli_epi32(codes, 12)), values_of_four_bits())};
}

// Times 2^exponent, right where every product is a normal number. The exponent's bias goes from 7 to 127 by an addition; NaN, 0 and
// the subnormals, which come after it if magnitudes are counted from 127 around, get another number added instead.
inline Pairs load_pairs(const e4m3* p, int exponent = 0) {
  alignas(64) static constexpr uint16_t instead[32] = {0x77d0, 0, 0x3af0, 0x3b60, 0x3b90, 0x3bc0, 0x3bd0, 0x3be0, 0x3bf0};
  const __m512i power = _mm512_set1_epi16(int16_t(exponent * 128)), of = _mm512_load_si512(instead);
  const __m512i special = _mm512_mask_add_epi16(of, 0x1fc, of, power);  // the subnormals alone
  const __m512i codes = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  const __m512i next = _mm512_add_epi16(codes, _mm512_set1_epi16(1));
  const __mmask32 is = _mm512_cmplt_epu16_mask(_mm512_slli_epi16(next, 9), _mm512_set1_epi16(9 << 9));
  const __m512i normal = _mm512_add_epi16(power, _mm512_set1_epi16(120 << 7));
  const __m512i bias = _mm512_mask_permutexvar_epi16(normal, is, next, special);
  const __m512i fields = _mm512_and_si512(_mm512_slli_epi16(codes, 4), _mm512_set1_epi16(int16_t(0x87f0)));
  return {_mm512_add_epi16(fields, bias)};
}

// Integers below 2^8 are exact: of their floats the lower halves are 0.
inline Pairs load_pairs(const int8_t* p) {
  const __m512i both = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  const __m512 even = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(both, 16), 16));
  const __m512 odd = _mm512_cvtepi32_ps(_mm512_srai_epi32(both, 16));
  return {_mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(even), 16), _mm512_castps_si512(odd))};
}

}  // namespace deepport::DEEPPORT_LEVEL
