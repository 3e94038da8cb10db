// Numbers in any format, by the C++ types that hold them.
#pragma once

#include "types.h"

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

}  // namespace deepport::DEEPPORT_LEVEL
