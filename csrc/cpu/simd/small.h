// Floats as small elements (`types.h`): `encode(x, p)` stores them at p, to the nearest, ties to even; who calls has scaled x so that
// none is too large. The vectors of integers are the compiler's own but where it packs them badly.
#pragma once

#include "simd/simd.h"

namespace deepport::DEEPPORT_LEVEL {

typedef uint32_t Words __attribute__((vector_size(sizeof(Vec))));

inline Words words(Vec x) {
  Words bits;
  std::memcpy(&bits, &x.r, sizeof bits);
  return bits;
}

inline Vec floats(Words bits) {
  Vec x;
  std::memcpy(&x.r, &bits, sizeof bits);
  return x;
}

// The lowest byte of each word; and of each two words, whose bytes are below 16, one after the other in four bits each.
#if defined(__AVX2__)

#if defined(__AVX512F__)
inline __m128i octets(Words x) { return _mm512_cvtepi32_epi8((__m512i)x); }
#else
inline __m128i octets(Words x) {
  const __m256i bytes = (__m256i)(x & 255);
  const __m128i halves = _mm_packs_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
  return _mm_packus_epi16(halves, halves);
}
#endif

inline void store_octets(uint8_t* p, Words x) {
  const __m128i all = octets(x);
  std::memcpy(p, &all, Vec::lanes);
}

inline void store_nibbles(uint8_t* p, Words x) {
  const __m128i both = _mm_maddubs_epi16(octets(x), _mm_set1_epi16(0x1001));  // the first, and 16 times the second
  const __m128i all = _mm_packus_epi16(both, both);
  std::memcpy(p, &all, Vec::lanes / 2);
}

#else

inline void store_octets(uint8_t* p, Words x) {
  for (int i = 0; i < Vec::lanes; ++i) p[i] = uint8_t(x[i]);
}

inline void store_nibbles(uint8_t* p, Words x) {
  for (int i = 0; i < Vec::lanes; i += 2) p[i / 2] = uint8_t((x[i] & 255) | (x[i + 1] & 255) << 4);
}

#endif

// In its lowest byte, the code of a float with so many bits of mantissa, the sign in bit `place`, and a bias such that its least
// normal number has the exponent `least` in a float.
//
// A number added to one so large that the sum's last bit is worth a step of the code is rounded there. The steps of all smaller
// exponents come before, 2^mantissa of each: what they are too many by, counted from a float's exponent of 0, the large number lacks.
template <int mantissa, int place, uint32_t least, bool has_negative_zero = true>
inline Words codes(Vec x) {
  constexpr int gone = 23 - mantissa;
  constexpr uint32_t lacking = -(least << mantissa) & 255;
  const Words bits = words(x), field = bits & 0x7f800000, bound = Words{} + (least << 23);
  const Words exponent = field > bound ? field : bound;
  const Vec sum = floats(bits & 0x7fffffff) + floats(exponent + (gone << 23 | lacking));
  const Words code = words(sum) + (exponent >> gone), sign = bits >> (31 - place) & (1 << place);
  return code | (has_negative_zero ? sign : sign & Words((code & 255) != 0));
}

inline void encode(Vec x, e4m3* p) { store_octets(&p->bits, codes<3, 7, 121>(x)); }
inline void encode(Vec x, e4m3fnuz* p) { store_octets(&p->bits, codes<3, 7, 120, false>(x)); }
inline void encode(Vec x, e2m1_pair* p) { store_nibbles(&p->bits, codes<1, 3, 127>(x)); }

inline void encode(Vec x, int8_t* p) {
  const Vec magic = splat(12582912.0f);  // 1.5 * 2^23: the sum's lowest byte is the integer
  store_octets(reinterpret_cast<uint8_t*>(p), words(x + magic));
}

// As `each` writes.
template <class E>
inline void encode(Whole, Vec x, E* p) {
  encode(x, p);
}

template <class E>
inline void encode(Part part, Vec x, E* p) {
  E whole[Vec::lanes];
  encode(x, whole);
  std::memcpy(p, whole, size_t(part.n / packing<E>) * sizeof(E));
}

}  // namespace deepport::DEEPPORT_LEVEL
