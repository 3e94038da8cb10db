#include "mhc.h"

#include <cmath>
#include <type_traits>

#include "parallel.h"
#include "scratch.h"
#include "simd/math.h"
#include "simd/simd.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

// The projection is a product of matrices in float32. Tokens in groups meet a block of fn's columns while it is in the nearest
// cache; sums wait as vectors, and each lane is one chain of additions, so that a token's sums are the same in any group.
constexpr int64_t group_tokens = 16, block_columns = 128;

// Within a group: as many sums as the registers hold.
constexpr int tile_tokens = Vec::lanes == 16 ? 4 : 2, tile_rows = 4;

// A product's right side, and so many of its columns: rows lie `size` apart, and there are `rows` of them.
struct Weights {
  const float* fn;
  int64_t rows, size, columns;
};

// sums[t, r] += fn[r] x[t] by lanes; rows of x lie `pitch` apart.
template <int tokens, int rows, class T>
void tile(const T* x, int64_t pitch, const Weights& by, float* sums) {
  Vec s[tokens][rows];
  for (int t = 0; t < tokens; ++t)
    for (int r = 0; r < rows; ++r) s[t][r] = load(sums + (t * by.rows + r) * Vec::lanes);
  each(by.columns, [&](int64_t c, auto access) {
    Vec of_token[tokens];
    for (int t = 0; t < tokens; ++t) of_token[t] = access.get(x + t * pitch + c);
    for (int r = 0; r < rows; ++r) {
      const Vec weight = access.get(by.fn + r * by.size + c);
      for (int t = 0; t < tokens; ++t) s[t][r] = fma(of_token[t], weight, s[t][r]);
    }
  });
  for (int t = 0; t < tokens; ++t)
    for (int r = 0; r < rows; ++r) store(sums + (t * by.rows + r) * Vec::lanes, s[t][r]);
}

template <int rows, class T>
void tiles(const T* x, int64_t pitch, int64_t tokens, const Weights& by, float* sums) {
  int64_t t = 0;
  for (; t + tile_tokens <= tokens; t += tile_tokens)
    tile<tile_tokens, rows>(x + t * pitch, pitch, by, sums + t * by.rows * Vec::lanes);
  for (; t < tokens; ++t) tile<1, rows>(x + t * pitch, pitch, by, sums + t * by.rows * Vec::lanes);
}

template <class T>
void block(const T* x, int64_t pitch, int64_t tokens, Weights by, float* sums) {
  int64_t r = 0;
  for (; r + tile_rows <= by.rows; r += tile_rows, by.fn += tile_rows * by.size)
    tiles<tile_rows>(x, pitch, tokens, by, sums + r * Vec::lanes);
  for (; r < by.rows; ++r, by.fn += by.size) tiles<1>(x, pitch, tokens, by, sums + r * Vec::lanes);
}

// Rows of `columns` numbers, `pitch` apart, as floats that lie together, `block_columns` apart.
template <class T>
void widen(const T* from, int64_t pitch, int64_t rows, int64_t columns, float* to) {
  for (int64_t r = 0; r < rows; ++r)
    each(columns, [&](int64_t c, auto access) { access.put(to + r * block_columns + c, access.get(from + r * pitch + c)); });
}

// a[t, r] = fn[r] . x[t] of a group's tokens and some rows; rows of a lie `stride` apart. Several tokens are widened to float
// first, once for all rows.
template <class T>
void project_group(const T* x, const float* fn, float* a, int64_t tokens, int64_t rows, int64_t size, int64_t stride) {
  struct Tag;
  const int64_t lanes = tokens * rows * Vec::lanes;
  float *sums = Scratch<Tag>::template get<float>(lanes + group_tokens * block_columns), *wide = sums + lanes;
  for (int64_t i = 0; i < lanes; ++i) sums[i] = 0;
  if (tokens == 1)
    block(x, size, tokens, {fn, rows, size, size}, sums);
  else
    for (int64_t c = 0; c < size; c += block_columns) {
      const int64_t columns = size - c < block_columns ? size - c : block_columns;
      widen(x + c, size, tokens, columns, wide);
      block(wide, block_columns, tokens, {fn + c, rows, size, columns}, sums);
    }
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t r = 0; r < rows; ++r) a[t * stride + r] = sum(load(sums + (t * rows + r) * Vec::lanes));
}

// a [tokens, rows] = x fn^T. Threads share the groups; of one group, the rows.
template <class T>
void project(const T* x, const float* fn, float* a, int64_t tokens, int64_t rows, int64_t size) {
  const int64_t groups = (tokens + group_tokens - 1) / group_tokens, height = groups > 1 ? rows : tile_rows;
  const int64_t across = (rows + height - 1) / height, products = (groups > 1 ? group_tokens : tokens) * height * size;
  parallel(groups * across, 1 + 32768 / (products + 1), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t t = i / across * group_tokens, r = i % across * height;
      const int64_t of_group = tokens - t < group_tokens ? tokens - t : group_tokens, of_part = rows - r < height ? rows - r : height;
      project_group(x + t * size, fn + r * size, a + t * rows + r, of_group, of_part, size, rows);
    }
  });
}

// Coefficients are computed of one token, by floats, or of as many as a vector has lanes: then a number is a vector, the next
// token's in the next lane. The arithmetic, and each token's result, is the same.
template <class N>
constexpr int64_t lanes = std::is_same_v<N, Vec> ? Vec::lanes : 1;

template <class N>
N get(const float* p) {
  if constexpr (std::is_same_v<N, Vec>)
    return load(p);
  else
    return *p;
}

inline void put(float* p, float x) { *p = x; }
inline void put(float* p, Vec x) { store(p, x); }
inline float most(float a, float b) { return a > b ? a : b; }

template <class N>
N constant(float x) {
  if constexpr (std::is_same_v<N, Vec>)
    return splat(x);
  else
    return x;
}

// Of n lines of n numbers, which lie `inner` apart, the lines `outer`: each is divided by its sum plus eps.
template <class N, class Count>
inline void normalise(float* lines, Count n, int64_t outer, int64_t inner, float eps) {
  for (int64_t i = 0; i < n; ++i) {
    float* line = lines + i * outer;
    N total = get<N>(line);
    for (int64_t j = 1; j < n; ++j) total = total + get<N>(line + j * inner);
    const N factor = constant<N>(1.0f) / (total + constant<N>(eps));
    for (int64_t j = 0; j < n; ++j) put(line + j * inner, get<N>(line + j * inner) * factor);
  }
}

// comb [n, n] of logits becomes softmax(comb) of each row.
template <class N, class Count>
inline void softmax(float* comb, Count n) {
  const int64_t step = lanes<N>;
  for (int64_t i = 0; i < n; ++i) {
    float* row = comb + i * n * step;
    N top = get<N>(row);
    for (int64_t j = 1; j < n; ++j) top = most(top, get<N>(row + j * step));
    for (int64_t j = 0; j < n; ++j) put(row + j * step, get<N>(row + j * step) - top);
  }
  each(n * n * step, [&](int64_t i, auto access) { access.put(comb + i, exp(access.get(comb + i))); });
  normalise<N>(comb, n, n * step, step, 0.0f);
}

template <class N, class Count>
inline void sinkhorn(float* comb, Count n, int64_t iters, float eps) {
  const int64_t step = lanes<N>, row = n * step;
  softmax<N>(comb, n);
  for (int64_t i = 0; i < n * n; ++i) put(comb + i * step, get<N>(comb + i * step) + constant<N>(eps));
  normalise<N>(comb, n, step, row, eps);
  for (int64_t i = 1; i < iters; ++i) {
    normalise<N>(comb, n, row, step, eps);
    normalise<N>(comb, n, step, row, eps);
  }
}

// With the usual four streams loops have a length that the compiler knows.
template <class F>
void with_count(int64_t n, F&& f) {
  if (n == 4)
    f(std::integral_constant<int64_t, 4>{});
  else
    f(n);
}

// How a kernel makes its coefficients: `parts` of n, n and n * n rows, of which mhc_head has only the first.
struct Coefficients {
  const float *scale, *base;
  int64_t n, width, rows, iters;
  float eps, norm_eps;
};

// What lies in `places` lanes, of which the first hold tokens: a [rows, places] = mixes * factor * scale + base, then their
// functions. `mixes` [tokens, rows] are the projections.
template <class N, class T>
void coefficients(const Coefficients& of, const T* streams, const float* mixes, float* a, int64_t tokens) {
  const int64_t n = of.n, size = n * of.width, places = lanes<N>;
  for (int64_t t = 0; t < tokens; ++t) {
    const float factor = 1.0f / std::sqrt(squares(streams + t * size, size) / float(size) + of.norm_eps);
    for (int64_t r = 0; r < of.rows; ++r) {
      const float scale = of.scale[r < n ? 0 : r < 2 * n ? 1 : 2];
      a[r * places + t] = mixes[t * of.rows + r] * factor * scale + of.base[r];
    }
  }
  for (int64_t t = tokens; t < places; ++t)
    for (int64_t r = 0; r < of.rows; ++r) a[r * places + t] = 0;
  const int64_t sigmoids = of.rows < 2 * n ? of.rows : 2 * n;
  each(sigmoids * places, [&](int64_t i, auto access) { access.put(a + i, sigmoid(access.get(a + i))); });
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
