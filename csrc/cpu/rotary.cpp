#include "rotary.h"

#include <cstring>

#include "parallel.h"
#include "scratch.h"
#include "simd/simd.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

// What a token's channels are multiplied by, so that y = x own + swapped(x) other: cos twice, and -sin, sin.
struct Factors {
  float *own, *other;
};

void spread(const float* cos, const float* sin, const Factors& to, int64_t pairs, bool inverse) {
  for (int64_t i = 0; i < pairs; ++i) {
    const float up = inverse ? -sin[i] : sin[i];
    to.own[2 * i] = to.own[2 * i + 1] = cos[i];
    to.other[2 * i] = -up;
    to.other[2 * i + 1] = up;
  }
}

template <class T>
void rotate(const T* x, const Factors& by, T* y, int64_t width, int64_t pairs) {
  const int64_t kept = width - 2 * pairs;
  std::memcpy(y, x, size_t(kept) * sizeof(T));
  each(2 * pairs, [&](int64_t c, auto access) {
    const Vec from = access.get(x + kept + c);
    access.put(y + kept + c, fma(from, access.get(by.own + c), swapped(from) * access.get(by.other + c)));
  });
}

}  // namespace

void rotary(const void* x, const float* cos, const float* sin, void* y, Type type, int64_t tokens, int64_t heads, int64_t width,
            int64_t pairs, bool inverse) {
  visit(type, [&](auto element) {
    using T = decltype(element);
    const T* from = static_cast<const T*>(x);
    T* to = static_cast<T*>(y);
    parallel(tokens, 1 + 32768 / (heads * width + 1), [&](int64_t begin, int64_t end) {
      struct Tag;
      float* scratch = Scratch<Tag>::template get<float>(4 * pairs);
      const Factors by{scratch, scratch + 2 * pairs};
      for (int64_t t = begin; t < end; ++t) {
        spread(cos + t * pairs, sin + t * pairs, by, pairs, inverse);
        for (int64_t row = t * heads; row < (t + 1) * heads; ++row) rotate(from + row * width, by, to + row * width, width, pairs);
      }
    });
  });
}

}  // namespace deepport::DEEPPORT_LEVEL
