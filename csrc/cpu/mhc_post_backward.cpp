#include "coefficients.h"
#include "mhc.h"
#include "pairwise.h"
#include "parallel.h"
#include "scratch.h"
#include "simd/simd.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

// d_comb[k, m] = streams[k] . d[m]
template <class T>
void comb_back(const T* streams, const T* d, int64_t n, int64_t width, float* d_comb, float* room) {
  int64_t k = 0;
  for (; k + 2 <= n; k += 2) multiply_all<2>(streams + k * width, d, n, width, room + k * n * Vec::lanes);
  for (; k < n; ++k) multiply_all<1>(streams + k * width, d, n, width, room + k * n * Vec::lanes);
  add_lanes(room, n * n, d_comb);
}

// d_post[m] = y . d[m]
template <class T>
void post_back(const T* y, const T* d, int64_t n, int64_t width, float* d_post, float* room) {
  multiply_all<1>(y, d, n, width, room);
  add_lanes(room, n, d_post);
}

// to = sum_m weights[m] d[m]
template <class T, class Count>
void combine(const float* weights, const T* d, T* to, Count n, int64_t width) {
  each(width, [&](int64_t c, auto access) {
    Vec total = zero();
    for (int64_t m = 0; m < n; ++m) total = fma(splat(weights[m]), access.get(d + m * width + c), total);
    access.put(to + c, total);
  });
}

}  // namespace

void mhc_post_backward(const void* d_mixed, const void* y, const void* streams, const float* post, const float* comb, void* d_y,
                       void* d_streams, float* d_post, float* d_comb, Type type, int64_t tokens, int64_t n, int64_t width) {
  visit(type, [&](auto element) {
    using T = decltype(element);
    const T *from = static_cast<const T*>(d_mixed), *of_layer = static_cast<const T*>(y), *all = static_cast<const T*>(streams);
    T *to_layer = static_cast<T*>(d_y), *to = static_cast<T*>(d_streams);
    parallel(tokens, 1 + 16384 / (n * width + 1), [&](int64_t begin, int64_t end) {
      struct Tag;
      float* room = Scratch<Tag>::template get<float>(n * n * Vec::lanes);
      with_count(n, [&](auto count) {
        for (int64_t t = begin; t < end; ++t) {
          const int64_t at = t * n * width;
          if (d_comb) comb_back(all + at, from + at, n, width, d_comb + t * n * n, room);
          if (d_post) post_back(of_layer + t * width, from + at, n, width, d_post + t * n, room);
          if (to_layer) combine(post + t * n, from + at, to_layer + t * width, count, width);
          for (int64_t k = 0; to && k < n; ++k)
            combine(comb + (t * n + k) * n, from + at, to + at + k * width, count, width);
        }
      });
    });
  });
}

}  // namespace deepport::DEEPPORT_LEVEL
