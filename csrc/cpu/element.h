// Numbers in any format: the C++ types that hold them, and rows of them as floats.
#pragma once

#include <algorithm>
#include <type_traits>

#include "simd/formats.h"
#include "simd/simd.h"

namespace deepport::DEEPPORT_LEVEL {

// Calls f with a value of the type that holds an element, and one of that which holds a scale.
template <class F>
void with_types(const Format& format, F&& f) {
  const auto scaled = [&](auto element) { format.power_of_two ? f(element, e8m0{}) : f(element, float{}); };
  switch (format.element) {
    case Element::float32: return f(float{}, float{});
    case Element::bfloat16: return f(bfloat16{}, float{});
    case Element::int8: return f(int8_t{}, float{});
    case Element::e2m1: return f(e2m1_pair{}, e8m0{});
    case Element::e4m3: return scaled(e4m3{});
    case Element::e4m3fnuz: return scaled(e4m3fnuz{});
  }
}

// The same of the element alone.
template <class F>
void visit(Element element, F&& f) {
  switch (element) {
    case Element::float32: return f(float{});
    case Element::bfloat16: return f(bfloat16{});
    case Element::int8: return f(int8_t{});
    case Element::e2m1: return f(e2m1_pair{});
    case Element::e4m3: return f(e4m3{});
    case Element::e4m3fnuz: return f(e4m3fnuz{});
  }
}

// Whether no element but 0, which is at least 2^-10, times this scale is below 2^-126.
inline bool keeps_normal(e8m0 scale) { return scale.bits >= 11; }
inline bool keeps_normal(float) { return false; }

// A block of n numbers in pairs, where the level has that and the result is exact. What lies `ahead` bytes on is asked for; 0 for none.
template <int ahead, class E, class S, class T>
bool decode_pairs([[maybe_unused]] const E* from, [[maybe_unused]] S scale, [[maybe_unused]] int64_t n, [[maybe_unused]] T* to) {
  if constexpr (scales_pairs<E> && std::is_same_v<S, e8m0> && std::is_same_v<T, bfloat16>) {
    constexpr int most = 246;  // no element, below 2^9, becomes infinite, and 2^8 times the scale is a float
    if (n % Pairs::lanes || !keeps_normal(scale) || scale.bits > most) return false;
    for (int64_t i = 0; i < n; i += Pairs::lanes) {
      const E* p = from + i / packing<E>;
      if (ahead) prefetch(p + ahead);
      store_pairs(to + i, load_pairs(p, scale.bits - 127));
    }
    return true;
  }
  return false;
}

// to[c] = from[c] * scale[c / block], rounded once.
template <class E, class S, class T>
void decode_row(const E* from, const S* scale, int64_t block, int64_t width, T* to) {
  if constexpr (std::is_same_v<S, float>)
    if (block == 1)
      return each(width, [&](int64_t c, auto access) {
        access.put(to + c, access.get(from + c / packing<E>) * access.get(scale + c));
      });
  for (int64_t b = 0, first = 0; first < width; ++b, first += block) {
    if (decode_pairs<0>(from + first / packing<E>, scale[b], std::min(block, width - first), to + first)) continue;
    const Vec factor = splat(widen(scale[b]));
    const bool normal = keeps_normal(scale[b]);
    each(std::min(block, width - first), [&](int64_t i, auto access) {
      const Vec product = access.get(from + (first + i) / packing<E>) * factor;
      normal ? access.put_normal(to + first + i, product) : access.put(to + first + i, product);
    });
  }
}

}  // namespace deepport::DEEPPORT_LEVEL
