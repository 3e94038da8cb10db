#include "norm.h"

#include "parallel.h"
#include "simd/math.h"
#include "simd/simd.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

template <class T>
void normalise(const T* x, const float* weight, T* y, int64_t width, float eps) {
  const Vec factor = splat(1.0f) / root(splat(squares(x, width) / float(width) + eps));
  each(width, [&](int64_t c, auto access) {
    const Vec scaled = access.get(x + c) * factor;
    access.put(y + c, weight ? scaled * access.get(weight + c) : scaled);
  });
}

}  // namespace

void rms_norm(const void* x, const float* weight, void* y, Type type, int64_t rows, int64_t width, float eps) {
  visit(type, [&](auto element) {
    using T = decltype(element);
    const T* from = static_cast<const T*>(x);
    T* to = static_cast<T*>(y);
    parallel(rows, 1 + 16384 / (width + 1), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) normalise(from + r * width, weight, to + r * width, width, eps);
    });
  });
}

}  // namespace deepport::DEEPPORT_LEVEL
