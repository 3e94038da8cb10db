// Quantised numbers by the definitions of their formats.
#pragma once

#include "check.h"

namespace deepport::test {

inline double small_float(unsigned code, int bias, bool nan) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  const double size = exponent ? std::ldexp(8 + mantissa, exponent - bias - 3) : std::ldexp(mantissa, -bias - 2);
  return nan ? NAN : code & 128 ? -size : size;
}

// The i-th number in memory.
inline double value(const void* memory, Element element, int64_t i) {
  const uint8_t* codes = static_cast<const uint8_t*>(memory);
  constexpr double halves[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  switch (element) {
    case Element::float32: return double(static_cast<const float*>(memory)[i]);
    case Element::bfloat16: return double(host::widen(static_cast<const bfloat16*>(memory)[i]));
    case Element::int8: return double(static_cast<const int8_t*>(memory)[i]);
    case Element::e4m3: return small_float(codes[i], 7, (codes[i] & 127) == 127);
    case Element::e4m3fnuz: return small_float(codes[i], 8, codes[i] == 128);
    case Element::e2m1: {
      const unsigned code = codes[i / 2] >> i % 2 * 4 & 15;
      return code & 8 ? -halves[code & 7] : halves[code & 7];
    }
  }
  return NAN;
}

inline int64_t bytes(Element element, int64_t n) {
  return element == Element::float32 ? 4 * n : element == Element::bfloat16 ? 2 * n : element == Element::e2m1 ? n / 2 : n;
}

inline Guarded<uint8_t> random_bytes(std::mt19937& g, int64_t n) {
  Guarded<uint8_t> found(static_cast<size_t>(n));
  for (size_t i = 0; i < found.size(); ++i) found[i] = uint8_t(g());
  return found;
}

// Scales of both kinds, of which a format has one, or none.
struct Scales {
  Guarded<uint8_t> powers;
  Guarded<float> factors;

  Scales(std::mt19937& g, int64_t n) : powers(random_bytes(g, n)), factors(static_cast<size_t>(n)) {
    for (size_t i = 0; i < factors.size(); ++i) factors[i] = std::ldexp(float(g() % 1000), -int(g() % 40));
  }

  static bool has(const Format& format) { return format.element != Element::float32 && format.element != Element::bfloat16; }

  const void* data(const Format& format) const {
    return !has(format) ? nullptr : format.power_of_two ? static_cast<const void*>(powers.data()) : factors.data();
  }

  double at(const Format& format, int64_t i) const {
    if (!has(format)) return 1;
    if (!format.power_of_two) return double(factors[size_t(i)]);
    return powers[size_t(i)] == 255 ? NAN : std::ldexp(1.0, powers[size_t(i)] - 127);
  }
};

// The bits that a product rounds to, where any NaN is as good.
template <class T>
bool is_rounded(T found, double product) {
  const float got = host::widen(found), wanted = host::widen(host::narrow<T>(float(product)));
  return got == wanted || (std::isnan(got) && std::isnan(wanted));
}

}  // namespace deepport::test
