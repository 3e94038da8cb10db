#include "moe.h"

#include <stdexcept>

#include "order.h"
#include "parallel.h"
#include "simd/math.h"
#include "simd/simd.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

template <class T>
void combine(const T* y, const float* weights, const int32_t* inverse, const int32_t* ids, T* out, int64_t k, int64_t width) {
  each(width, [&](int64_t c, auto access) {
    Vec total = zero();
    for (int64_t j = 0; j < k; ++j)
      if (ids[j] >= 0) total = fma(splat(weights[j]), access.get(y + inverse[j] * width + c), total);
    access.put(out + c, total);
  });
}

}  // namespace

void moe_dispatch(const void* x, const int32_t* ids, void* rows, int32_t* offsets, int32_t* inverse, int64_t tokens,
                  int64_t k, int64_t experts, int64_t bytes) {
  sort_copies(ids, tokens * k, experts, offsets, inverse);
  parallel(tokens * k, 1 + 32768 / (bytes + 1), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      if (kept(ids[i], experts))
        std::memcpy(static_cast<char*>(rows) + inverse[i] * bytes, static_cast<const char*>(x) + i / k * bytes, size_t(bytes));
  });
}

void moe_combine(const void* y, const float* weights, const int32_t* inverse, const int32_t* ids, void* out, Type type,
                 int64_t rows, int64_t tokens, int64_t k, int64_t width) {
  for (int64_t i = 0; i < tokens * k; ++i)
    if (ids[i] >= 0 && (inverse[i] < 0 || inverse[i] >= rows))
      throw std::out_of_range("moe_combine: inverse names a row that y does not have");
  visit(type, [&](auto element) {
    using T = decltype(element);
    parallel(tokens, 1 + 16384 / (width * k + 1), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t)
        combine(static_cast<const T*>(y), weights + t * k, inverse + t * k, ids + t * k, static_cast<T*>(out) + t * width, k,
                width);
    });
  });
}

void swiglu(const void* gate, const void* up, void* y, Type type, int64_t n, float limit) {
  visit(type, [&](auto element) {
    using T = decltype(element);
    const Vec most_allowed = splat(limit);
    parallel(n, 8192, [&](int64_t begin, int64_t end) {
      const T *g = static_cast<const T*>(gate) + begin, *u = static_cast<const T*>(up) + begin;
      T* to = static_cast<T*>(y) + begin;
      each(end - begin, [&](int64_t i, auto access) {
        access.put(to + i, swiglu(access.get(g + i), access.get(u + i), most_allowed));
      });
    });
  });
}

}  // namespace deepport::DEEPPORT_LEVEL
