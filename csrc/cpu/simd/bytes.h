// Products of int8, four to a sum of int32, where a level has an instruction for them: VNNI, tiles, NEON's dot products.
#pragma once

#include <cstdint>

#if defined(__AVX512VNNI__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

namespace deepport::DEEPPORT_LEVEL {

#if defined(__AVX512VNNI__)
#define DEEPPORT_BYTES  // the level has such products

struct Bytes {
  static constexpr int lanes = 64;
  __m512i r;
};

inline Bytes splat_bytes(int8_t x) { return {_mm512_set1_epi8(x)}; }
// Adds to each int32 of c the products of its four bytes of a, taken as unsigned, and of b.
inline Bytes dot(Bytes a, Bytes b, Bytes c) { return {_mm512_dpbusd_epi32(c.r, a.r, b.r)}; }
inline float sum(Bytes x) { return float(_mm512_reduce_add_epi32(x.r)); }

#elif defined(__ARM_FEATURE_DOTPROD)
#define DEEPPORT_BYTES

struct Bytes {
  static constexpr int lanes = 16;
  int8x16_t r;
};

inline Bytes splat_bytes(int8_t x) { return {vdupq_n_s8(x)}; }
inline Bytes dot(Bytes a, Bytes b, Bytes c) {
  return {vreinterpretq_s8_s32(vdotq_s32(vreinterpretq_s32_s8(c.r), a.r, b.r))};
}
inline float sum(Bytes x) { return float(vaddvq_s32(vreinterpretq_s32_s8(x.r))); }

#endif

#if defined(__AMX_INT8__)
// c[16, 16] += a[16, 64] b[64, 16] of int8 in int32.
template <int c, int a, int b>
inline void tile_dot_int8() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(b));
}
#endif

}  // namespace deepport::DEEPPORT_LEVEL
