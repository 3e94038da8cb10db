// Elementary functions of vectors, from the primitives of simd.h alone.
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

// 1 / (1 + e^-x)
inline Vec sigmoid(Vec x) { return splat(1.0f) / (splat(1.0f) + exp(zero() - x)); }

}  // namespace deepport::DEEPPORT_LEVEL
