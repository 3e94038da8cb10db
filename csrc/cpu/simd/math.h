// Elementary functions of vectors, and sums over rows, from the primitives of simd.h alone.
#pragma once

#include "simd/simd.h"

namespace deepport::DEEPPORT_LEVEL {

// e^x within 2 roundings; 0 below -103.97, infinity above 88.73, NaN of NaN.
//
// x = n ln 2 + r with |r| <= ln(2) / 2; e^r by its series to r^7.
inline Vec exp(Vec x) {
  // NaN is the second operand, and stays.
  const Vec bounded = most(splat(-104.0f), least(splat(89.0f), x));
  const Vec n = nearest(bounded * splat(1.44269504f));
  // ln 2 in two parts: n times the first, which has 11 bits, is exact.
  const Vec r = fma(n, splat(2.12194440e-4f), fma(n, splat(-0.693359375f), bounded));
  Vec y = splat(1.9875691500e-4f);
  y = fma(y, r, splat(1.3981999507e-3f));
  y = fma(y, r, splat(8.3334519073e-3f));
  y = fma(y, r, splat(4.1665795894e-2f));
  y = fma(y, r, splat(1.6666665459e-1f));
  y = fma(y, r, splat(5.0000001201e-1f));
  y = fma(y, r * r, r + splat(1.0f));
  return times_power_of_two(y, n);
}

// 2^x within 2 roundings; 0 below -150, infinity above 128, NaN of NaN.
//
// x = n + f with |f| <= 1/2, exactly; 2^f by its series in f ln 2, minimised over the interval.
inline Vec exp2(Vec x) {
  const Vec bounded = most(splat(-151.0f), least(splat(129.0f), x));
  const Vec n = nearest(bounded), f = bounded - n;
  Vec y = splat(1.5353362e-4f);
  y = fma(y, f, splat(1.3398874e-3f));
  y = fma(y, f, splat(9.6184373e-3f));
  y = fma(y, f, splat(5.5503324e-2f));
  y = fma(y, f, splat(2.4022648e-1f));
  y = fma(y, f, splat(6.9314720e-1f));
  y = fma(y, f, splat(1.0f));
  return times_power_of_two(y, n);
}

// log(1 + x) of x in [0, 1], within 3 roundings; NaN of NaN.
//
// 2 artanh(s) with s = x / (2 + x) <= 1/3; artanh(s) / s by a fit to s^6, off by less than a tenth of a rounding.
inline Vec log1p(Vec x) {
  const Vec s = x / (splat(2.0f) + x), z = s * s;
  Vec y = splat(2.801198736e-1f);
  y = fma(y, z, splat(2.800180514e-1f));
  y = fma(y, z, splat(4.002152725e-1f));
  y = fma(y, z, splat(6.666641629e-1f));
  return fma(y, z, splat(2.0f)) * s;
}

// log(1 + e^x) within 5 roundings; NaN of NaN.
inline Vec softplus(Vec x) {
  const Vec negative = zero() - most(x, zero() - x);
  return most(zero(), x) + log1p(exp(negative));
}

// 1 / (1 + e^-x)
inline Vec sigmoid(Vec x) { return splat(1.0f) / (splat(1.0f) + exp(zero() - x)); }

// x / (1 + e^-x)
inline Vec silu(Vec x) { return x / (splat(1.0f) + exp(zero() - x)); }

// silu(min(gate, limit)) * clamp(up, -limit, limit); an infinite limit is none.
inline Vec swiglu(Vec gate, Vec up, Vec limit) {
  return silu(least(limit, gate)) * most(zero() - limit, least(limit, up));
}

// Sum of squares, in two chains of additions.
template <class T>
inline float squares(const T* x, int64_t width) {
  Vec even = zero(), odd = zero();
  int64_t c = 0;
  for (; c + 2 * Vec::lanes <= width; c += 2 * Vec::lanes) {
    const Vec a = load(x + c), b = load(x + c + Vec::lanes);
    even = fma(a, a, even);
    odd = fma(b, b, odd);
  }
  each(width - c, [&](int64_t i, auto access) {
    const Vec a = access.get(x + c + i);
    even = fma(a, a, even);
  });
  return sum(even + odd);
}

}  // namespace deepport::DEEPPORT_LEVEL
