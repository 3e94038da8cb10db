#include "mhc.h"

#include "coefficients.h"
#include "parallel.h"
#include "project.h"
#include "scratch.h"
#include "simd/math.h"
#include "simd/simd.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

// What lies in `places` lanes, of which the first hold tokens: a [rows, places] = mixes * factor * scale + base, then their
// functions. `mixes` [tokens, rows] are the projections.
template <class N, class T>
void coefficients(const Coefficients& of, const T* streams, const float* mixes, float* a, int64_t tokens) {
  const int64_t n = of.n, size = n * of.width, places = lanes<N>;
  for (int64_t t = 0; t < tokens; ++t) {
    const float factor = of.factor(streams + t * size);
    for (int64_t r = 0; r < of.rows; ++r) a[r * places + t] = mixes[t * of.rows + r] * factor * of.scale[of.part(r)] + of.base[r];
  }
  for (int64_t t = tokens; t < places; ++t)
    for (int64_t r = 0; r < of.rows; ++r) a[r * places + t] = 0;
  each(of.sigmoids() * places, [&](int64_t i, auto access) { access.put(a + i, sigmoid(access.get(a + i))); });
  if (of.rows > 2 * n) with_count(n, [&](auto count) { sinkhorn<N>(a + 2 * n * places, count, of.iters, of.eps); });
}

// y = sum_i (weights[i * stride] + eps) x[i]
template <class T>
void collapse(const T* x, const float* weights, int64_t stride, float eps, T* y, int64_t n, int64_t width) {
  each(width, [&](int64_t c, auto access) {
    Vec total = zero();
    for (int64_t i = 0; i < n; ++i) total = fma(splat(weights[i * stride] + eps), access.get(x + i * width + c), total);
    access.put(y + c, total);
  });
}

template <class T>
struct Results {
  T* y;
  float *post, *comb;  // null for mhc_head
};

// Tokens from `first` on, from projections to results.
template <class N, class T>
void finish(const Coefficients& of, const T* streams, const float* mixes, const Results<T>& to, int64_t first, int64_t tokens) {
  struct Tag;
  const int64_t n = of.n, size = n * of.width, places = lanes<N>;
  float* a = Scratch<Tag>::template get<float>(of.rows * places);
  coefficients<N>(of, streams + first * size, mixes + first * of.rows, a, tokens);
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t token = first + t;
    collapse(streams + token * size, a + t, places, of.eps, to.y + token * of.width, n, of.width);
    if (!to.post) continue;
    for (int64_t i = 0; i < n; ++i) to.post[token * n + i] = 2.0f * a[(n + i) * places + t];
    for (int64_t i = 0; i < n * n; ++i) to.comb[token * n * n + i] = a[(2 * n + i) * places + t];
  }
}

template <class T>
void collapse_all(const Coefficients& of, const T* streams, const float* fn, const Results<T>& to, int64_t tokens) {
  struct Tag;
  const int64_t size = of.n * of.width, step = Vec::lanes;
  float* mixes = Scratch<Tag>::template get<float>(tokens * of.rows);
  project(streams, fn, mixes, tokens, of.rows, size);
  parallel((tokens + step - 1) / step, 1 + 32768 / (step * size + 1), [&](int64_t begin, int64_t end) {
    for (int64_t first = begin * step; first < end * step && first < tokens; first += step) {
      const int64_t count = tokens - first < step ? tokens - first : step;
      const auto part = count == 1 ? finish<float, T> : finish<Vec, T>;
      part(of, streams, mixes, to, first, count);
    }
  });
}

template <class T, class Count>
void mix(const T* y, const T* streams, const float* post, const float* comb, T* mixed, Count n, int64_t width) {
  each(width, [&](int64_t c, auto access) {
    for (int64_t m = 0; m < n; ++m) {
      Vec total = splat(post[m]) * access.get(y + c);
      for (int64_t k = 0; k < n; ++k) total = fma(splat(comb[k * n + m]), access.get(streams + k * width + c), total);
      access.put(mixed + m * width + c, total);
    }
  });
}

}  // namespace

void mhc_pre(const void* streams, const float* fn, const float* scale, const float* base, void* y, float* post, float* comb,
             Type type, int64_t tokens, int64_t n, int64_t width, int64_t iters, float eps, float norm_eps) {
  const Coefficients of{scale, base, n, width, (2 + n) * n, iters, eps, norm_eps};
  visit(type, [&](auto element) {
    using T = decltype(element);
    collapse_all<T>(of, static_cast<const T*>(streams), fn, {static_cast<T*>(y), post, comb}, tokens);
  });
}

void mhc_head(const void* streams, const float* fn, const float* scale, const float* base, void* y, Type type, int64_t tokens,
              int64_t n, int64_t width, float eps, float norm_eps) {
  const Coefficients of{scale, base, n, width, n, 0, eps, norm_eps};
  visit(type, [&](auto element) {
    using T = decltype(element);
    collapse_all<T>(of, static_cast<const T*>(streams), fn, {static_cast<T*>(y), nullptr, nullptr}, tokens);
  });
}

void mhc_post(const void* y, const void* streams, const float* post, const float* comb, void* mixed, Type type, int64_t tokens,
              int64_t n, int64_t width) {
  visit(type, [&](auto element) {
    using T = decltype(element);
    const T *of_layer = static_cast<const T*>(y), *from = static_cast<const T*>(streams);
    T* to = static_cast<T*>(mixed);
    parallel(tokens, 1 + 16384 / (n * width + 1), [&](int64_t begin, int64_t end) {
      with_count(n, [&](auto count) {
        for (int64_t t = begin; t < end; ++t) {
          const int64_t at = t * n * width;
          mix(of_layer + t * width, from + at, post + t * n, comb + t * n * n, to + at, count, width);
        }
      });
    });
  });
}

}  // namespace deepport::DEEPPORT_LEVEL
