// Four lanes in the compiler's own vectors: any processor. On x86-64 they become SSE2, on aarch64 NEON.
#pragma once

#include <cmath>

#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#include <arm_neon.h>
#endif

namespace deepport::DEEPPORT_LEVEL {

struct Vec {
  typedef float Register __attribute__((vector_size(16)));
  static constexpr int lanes = 4;
  Register r;
};

struct Pairs {
  typedef uint16_t Register __attribute__((vector_size(16)));
  static constexpr int lanes = 8;
  Register r;
};

inline Vec splat(float x) { return {Vec::Register{x, x, x, x}}; }
inline Vec zero() { return splat(0.0f); }

inline Vec load(const float* p) {
  Vec x;
  std::memcpy(&x.r, p, sizeof x.r);
  return x;
}

inline Vec load(const bfloat16* p) {
  return {Vec::Register{widen(p[0]), widen(p[1]), widen(p[2]), widen(p[3])}};
}

// A float of 8 bits of this bias, whose NaN has these bits (without the sign, if that counts for nothing).
inline float small_float(uint8_t bits, int bias, bool nan) {
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  const float size = exponent ? std::ldexp(float(8 + mantissa), exponent - bias - 3) : std::ldexp(float(mantissa), -bias - 2);
  return nan ? __builtin_nanf("") : bits & 128 ? -size : size;
}

template <class F>
inline Vec by_lane(F&& f) {
  return {Vec::Register{f(0), f(1), f(2), f(3)}};
}

inline Vec load(const int8_t* p) {
  return by_lane([&](int i) { return float(p[i]); });
}

inline Vec load(const e4m3* p) {
  return by_lane([&](int i) { return small_float(p[i].bits, 7, (p[i].bits & 127) == 127); });
}

inline Vec load(const e4m3fnuz* p) {
  return by_lane([&](int i) { return small_float(p[i].bits, 8, p[i].bits == 128); });
}

inline Vec load(const e2m1_pair* p) {
  constexpr float sizes[16] = {0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0f, -0.5, -1, -1.5, -2, -3, -4, -6};
  return by_lane([&](int i) { return sizes[p[i / 2].bits >> i % 2 * 4 & 15]; });
}

inline void store(float* p, Vec x) { std::memcpy(p, &x.r, sizeof x.r); }

inline void store(bfloat16* p, Vec x) {
  for (int i = 0; i < Vec::lanes; ++i) p[i] = narrow<bfloat16>(x.r[i]);
}

inline Vec operator+(Vec a, Vec b) { return {a.r + b.r}; }
inline Vec operator-(Vec a, Vec b) { return {a.r - b.r}; }
inline Vec operator*(Vec a, Vec b) { return {a.r * b.r}; }
inline Vec operator/(Vec a, Vec b) { return {a.r / b.r}; }

// Without an instruction for it, a product and a sum are rounded one after the other.
inline Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }

inline Vec least(Vec a, Vec b) { return {a.r < b.r ? a.r : b.r}; }
inline Vec most(Vec a, Vec b) { return {a.r > b.r ? a.r : b.r}; }

inline Vec root(Vec x) {
  return {Vec::Register{std::sqrt(x.r[0]), std::sqrt(x.r[1]), std::sqrt(x.r[2]), std::sqrt(x.r[3])}};
}

inline Vec swapped(Vec x) { return {Vec::Register{x.r[1], x.r[0], x.r[3], x.r[2]}}; }

// To the nearest integer, for |x| < 2^22.
inline Vec nearest(Vec x) {
  const Vec magic = splat(12582912.0f);  // 1.5 * 2^23: sums have no bits below one
  return x + magic - magic;
}

// 2^n of an integer n in [-126, 127].
inline Vec power_of_two(Vec n) {
  typedef int32_t Int __attribute__((vector_size(16)));
  const Int exponent = (__builtin_convertvector(n.r, Int) + 127) << 23;
  Vec y;
  std::memcpy(&y.r, &exponent, sizeof y.r);
  return y;
}

inline float sum(Vec x) { return (x.r[0] + x.r[2]) + (x.r[1] + x.r[3]); }

inline float largest(Vec x) {
  const float a = x.r[0] > x.r[1] ? x.r[0] : x.r[1], b = x.r[2] > x.r[3] ? x.r[2] : x.r[3];
  return a > b ? a : b;
}

inline void transpose(Vec (&x)[Vec::lanes]) {
  for (int i = 0; i < Vec::lanes; ++i)
    for (int j = 0; j < i; ++j) {
      const float below = x[i].r[j];
      x[i].r[j] = x[j].r[i];
      x[j].r[i] = below;
    }
}

inline Vec where_at_most(Vec a, Vec b, Vec x) {
  for (int i = 0; i < Vec::lanes; ++i) x.r[i] = a.r[i] <= b.r[i] ? x.r[i] : 0;
  return x;
}

inline uint32_t greater(Vec a, Vec b) {
  uint32_t lanes = 0;
  for (int i = 0; i < Vec::lanes; ++i) lanes |= uint32_t(a.r[i] > b.r[i]) << i;
  return lanes;
}

inline uint32_t number(Vec x) {
  uint32_t lanes = 0;
  for (int i = 0; i < Vec::lanes; ++i) lanes |= uint32_t(x.r[i] == x.r[i]) << i;
  return lanes;
}

inline Pairs load_pairs(const bfloat16* p) {
  Pairs x;
  std::memcpy(&x.r, p, sizeof x.r);
  return x;
}

inline void store_pairs(bfloat16* p, Pairs x) { std::memcpy(p, &x.r, sizeof x.r); }

inline Pairs splat_pair(const bfloat16* p) {
  const uint16_t a = p[0].bits, b = p[1].bits;
  return {Pairs::Register{a, b, a, b, a, b, a, b}};
}

#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)

inline Vec dot(Pairs a, Pairs b, Vec c) {
  const bfloat16x8_t x = vreinterpretq_bf16_u16((uint16x8_t)a.r), y = vreinterpretq_bf16_u16((uint16x8_t)b.r);
  return {(Vec::Register)vbfdotq_f32((float32x4_t)c.r, x, y)};
}

#else

inline Vec dot(Pairs a, Pairs b, Vec c) {
  typedef uint32_t Words __attribute__((vector_size(16)));
  Words x, y;
  std::memcpy(&x, &a.r, sizeof x);
  std::memcpy(&y, &b.r, sizeof y);
  const Words low_x = x << 16, low_y = y << 16, high_x = x & 0xffff0000u, high_y = y & 0xffff0000u;
  Vec lx, ly, hx, hy;
  std::memcpy(&lx.r, &low_x, sizeof x);
  std::memcpy(&ly.r, &low_y, sizeof x);
  std::memcpy(&hx.r, &high_x, sizeof x);
  std::memcpy(&hy.r, &high_y, sizeof x);
  return fma(hx, hy, fma(lx, ly, c));
}

#endif

template <class E>
constexpr bool scales_pairs = false;

}  // namespace deepport::DEEPPORT_LEVEL
