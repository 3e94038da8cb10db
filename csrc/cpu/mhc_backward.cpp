#include <algorithm>

#include "coefficients.h"
#include "mhc.h"
#include "pairwise.h"
#include "parallel.h"
#include "project.h"
#include "scratch.h"
#include "simd/math.h"
#include "simd/simd.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

// Gradients of results, and room for those of arguments; null for 0, and where nobody asks.
template <class T>
struct Gradients {
  const T* y;
  const float *post, *comb;
  T* streams;
  float *fn, *scale, *base;
};

// As many tokens as a vector has lanes, side by side; all is 0 where there is none. Of each, fn x', logits and then their
// functions, and gradients of the logits [rows, lanes]; and the factor of x' [lanes].
struct Side {
  float *mixes, *a, *d, *factors;

  static int64_t size(int64_t rows) { return (3 * rows + 1) * Vec::lanes; }

  Side(float* room, int64_t rows)
      : mixes(room), a(mixes + rows * Vec::lanes), d(a + rows * Vec::lanes), factors(d + rows * Vec::lanes) {
    for (int64_t i = 0; i < size(rows); ++i) room[i] = 0;
  }
};

// d_pre[i] = d_y . x[i]
template <class T>
void collapse_back(const Coefficients& of, const T* d_y, const T* x, float* d) {
  struct Tag;
  float *products = Scratch<Tag>::template get<float>(of.n * (Vec::lanes + 1)), *found = products + of.n * Vec::lanes;
  multiply_all<1>(d_y, x, of.n, of.width, products);
  add_lanes(products, of.n, found);
  for (int64_t i = 0; i < of.n; ++i) d[i * Vec::lanes] = found[i];
}

// Of a token, into the lane of `to` that is given: the projection, and gradients of the functions' results.
template <class T>
void take(const Coefficients& of, const T* x, const float* projected, const Gradients<T>& from, int64_t token, const Side& to,
          int64_t lane) {
  const int64_t n = of.n;
  float *mixes = to.mixes + lane, *d = to.d + lane;
  const float factor = to.factors[lane] = of.factor(x);
  for (int64_t r = 0; r < of.rows; ++r) mixes[r * Vec::lanes] = projected[r] * factor;
  if (from.y) collapse_back(of, from.y + token * of.width, x, d);
  if (from.post)
    for (int64_t i = 0; i < n; ++i) d[(n + i) * Vec::lanes] = from.post[token * n + i];
  if (from.comb)
    for (int64_t i = 0; i < n * n; ++i) d[(2 * n + i) * Vec::lanes] = from.comb[token * n * n + i];
}

// Gradients of the functions' results become those of the logits.
void back_to_logits(const Coefficients& of, const Side& side, bool from_comb) {
  struct Tag;
  const int64_t n = of.n, step = Vec::lanes;
  for (int64_t r = 0; r < of.rows; ++r)
    store(side.a + r * step, load(side.mixes + r * step) * splat(of.scale[of.part(r)]) + splat(of.base[r]));
  for (int64_t r = 0; r < of.sigmoids(); ++r) {
    const Vec y = sigmoid(load(side.a + r * step)), d = load(side.d + r * step) * splat(r < n ? 1.0f : 2.0f);
    store(side.a + r * step, y);
    store(side.d + r * step, d * y * (splat(1.0f) - y));
  }
  if (!from_comb) return;
  float* trail = Scratch<Tag>::template get<float>(trail_size(n, of.iters));
  with_count(n, [&](auto count) { sinkhorn_back(side.a + 2 * n * step, side.d + 2 * n * step, trail, count, of.iters, of.eps); });
}

constexpr int64_t parts = 3;

// Sums over the lanes [rows + parts], for d_base and d_scale.
void add_up(const Coefficients& of, const Side& side, float* sums) {
  Vec scales[parts] = {zero(), zero(), zero()};
  for (int64_t r = 0; r < of.rows; ++r) {
    const Vec d = load(side.d + r * Vec::lanes);
    sums[r] = sum(d);
    scales[of.part(r)] = fma(d, load(side.mixes + r * Vec::lanes), scales[of.part(r)]);
  }
  for (int64_t p = 0; p < parts; ++p) sums[of.rows + p] = sum(scales[p]);
}

// What a token's d_streams are made of, one after the other: weights of fn's rows, of the token itself, and of d_y in each stream.
inline int64_t weights(const Coefficients& of) { return of.rows + 1 + of.n; }

void weigh(const Coefficients& of, const Side& side, float* to, int64_t tokens) {
  const int64_t step = Vec::lanes;
  const Vec factor = load(side.factors);
  Vec along = zero();
  for (int64_t r = 0; r < of.rows; ++r) {
    const Vec g = load(side.d + r * step) * splat(of.scale[of.part(r)]);
    along = fma(g, load(side.mixes + r * step), along);
    store(side.d + r * step, g * factor);
  }
  store(side.factors, zero() - factor * factor * along / splat(float(of.n * of.width)));
  for (int64_t t = 0; t < tokens; ++t, to += weights(of)) {
    for (int64_t r = 0; r < of.rows; ++r) to[r] = side.d[r * step + t];
    to[of.rows] = side.factors[t];
    for (int64_t i = 0; i < of.n; ++i) to[of.rows + 1 + i] = side.a[i * step + t] + of.eps;
  }
}

// The first pass: every token's weights, and the sums [groups, rows + parts] of as many tokens as a vector has lanes.
template <class T>
void coefficients_back(const Coefficients& of, const T* streams, const float* projected, const Gradients<T>& from, float* to,
                       float* sums, int64_t tokens) {
  const int64_t size = of.n * of.width, step = Vec::lanes;
  parallel((tokens + step - 1) / step, 1, [&](int64_t begin, int64_t end) {
    struct Tag;
    float* room = Scratch<Tag>::template get<float>(Side::size(of.rows));
    for (int64_t group = begin; group < end; ++group) {
      const Side side(room, of.rows);
      const int64_t first = group * step, count = std::min(tokens - first, step);
      for (int64_t t = first; t < first + count; ++t)
        take(of, streams + t * size, projected + t * of.rows, from, t, side, t - first);
      back_to_logits(of, side, from.comb);
      add_up(of, side, sums + group * (of.rows + parts));
      weigh(of, side, to + first * weights(of), count);
    }
  });
}

// The second pass, by strips of columns of one stream, of which the tokens come some at a time: every thread has strips of its own,
// whose sums over all tokens are in one order.
constexpr int64_t strip_columns = 64, strip_tokens = 32;

// The left side of a product, by rows and columns that lie anyhow.
struct Left {
  const float* first;
  int64_t row, column;
};

// c[m] += sum_k left[m, k] b[k] of M strips.
template <int M>
void add_rows(const Left& left, const float* b, int64_t depth, float* c) {
  constexpr int V = Vec::lanes == 16 ? 4 : 2;
  for (int64_t j = 0; j < strip_columns; j += V * Vec::lanes, b += V * Vec::lanes, c += V * Vec::lanes) {
    Vec s[M][V];
    for (int m = 0; m < M; ++m)
      for (int v = 0; v < V; ++v) s[m][v] = zero();
    for (int64_t k = 0; k < depth; ++k)
      for (int m = 0; m < M; ++m) {
        const Vec factor = splat(left.first[m * left.row + k * left.column]);
        for (int v = 0; v < V; ++v) s[m][v] = fma(factor, load(b + k * strip_columns + v * Vec::lanes), s[m][v]);
      }
    for (int m = 0; m < M; ++m)
      for (int v = 0; v < V; ++v) {
        float* to = c + m * strip_columns + v * Vec::lanes;
        store(to, load(to) + s[m][v]);
      }
  }
}

void add_product(Left left, const float* b, int64_t rows, int64_t depth, float* c) {
  for (; rows >= 4; rows -= 4, left.first += 4 * left.row, c += 4 * strip_columns) add_rows<4>(left, b, depth, c);
  for (; rows > 0; --rows, left.first += left.row, c += strip_columns) add_rows<1>(left, b, depth, c);
}

// Rows that lie `pitch` apart as strips of floats; what is left of the last vector is 0.
template <class T>
void widen_strips(const T* from, int64_t pitch, int64_t rows, int64_t columns, float* to) {
  for (int64_t r = 0; r < rows; ++r)
    each(columns, [&](int64_t c, auto access) { store(to + r * strip_columns + c, access.get(from + r * pitch + c)); });
}

template <class T>
struct Strip {
  const Coefficients& of;
  const Gradients<T>& to;
  int64_t stream, column, columns;  // of the stream, from `column` on
  float *fn, *d_fn, *x, *d_x;       // strips of fn's rows, and of some tokens

  static int64_t size(int64_t rows) { return 2 * (rows + strip_tokens) * strip_columns; }

  Strip(float* room, const Coefficients& how, const Gradients<T>& all, int64_t number, int64_t first)
      : of(how), to(all), stream(number), column(first), columns(std::min(of.width - first, strip_columns)),
        fn(room), d_fn(fn + of.rows * strip_columns), x(d_fn + of.rows * strip_columns), d_x(x + strip_tokens * strip_columns) {
    for (int64_t i = 0; i < size(of.rows); ++i) room[i] = 0;
  }

  // Where the strip begins in a token, or a row of fn.
  int64_t at() const { return stream * of.width + column; }
};

// d_streams of `count` tokens from t on: what they themselves, d_y and fn give.
template <class T>
void streams_back(const Strip<T>& s, const float* by, int64_t t, int64_t count) {
  const Coefficients& of = s.of;
  const T* d_y = s.to.y ? s.to.y + t * of.width + s.column : nullptr;
  for (int64_t i = 0; i < count; ++i) {
    const float* w = by + i * weights(of) + of.rows;
    const Vec own = splat(w[0]), pre = splat(w[1 + s.stream]);
    each(s.columns, [&](int64_t c, auto access) {
      const Vec from_x = own * load(s.x + i * strip_columns + c);
      store(s.d_x + i * strip_columns + c, d_y ? fma(pre, access.get(d_y + i * of.width + c), from_x) : from_x);
    });
  }
  add_product({by, weights(of), 1}, s.fn, count, of.rows, s.d_x);
  T* to = s.to.streams + t * of.n * of.width + s.at();
  for (int64_t i = 0; i < count; ++i)
    each(s.columns, [&](int64_t c, auto access) { access.put(to + i * of.n * of.width + c, load(s.d_x + i * strip_columns + c)); });
}

// d_streams and d_fn of a strip; `by` are all tokens' weights.
template <class T>
void strip_back(const Strip<T>& s, const T* streams, const float* fn, const float* by, int64_t tokens) {
  const Coefficients& of = s.of;
  const int64_t size = of.n * of.width;
  widen_strips(fn + s.at(), size, of.rows, s.columns, s.fn);
  for (int64_t t = 0; t < tokens; t += strip_tokens, by += strip_tokens * weights(of)) {
    const int64_t count = std::min(tokens - t, strip_tokens);
    widen_strips(streams + t * size + s.at(), size, count, s.columns, s.x);
    if (s.to.streams) streams_back(s, by, t, count);
    if (s.to.fn) add_product({by, 1, weights(of)}, s.x, of.rows, count, s.d_fn);
  }
  for (int64_t r = 0; s.to.fn && r < of.rows; ++r) {
    float* to = s.to.fn + r * size + s.at();
    each(s.columns, [&](int64_t c, auto access) { access.put(to + c, load(s.d_fn + r * strip_columns + c)); });
  }
}

template <class T>
void strips_back(const Coefficients& of, const T* streams, const float* fn, const float* by, const Gradients<T>& to,
                 int64_t tokens) {
  const int64_t across = (of.width + strip_columns - 1) / strip_columns, products = tokens * of.rows * strip_columns;
  parallel(of.n * across, 1 + 32768 / (products + 1), [&](int64_t begin, int64_t end) {
    struct Tag;
    float* room = Scratch<Tag>::template get<float>(Strip<T>::size(of.rows));
    for (int64_t i = begin; i < end; ++i)
      strip_back(Strip<T>(room, of, to, i / across, i % across * strip_columns), streams, fn, by, tokens);
  });
}

// to[i] = the sum of what every group has, in their order.
void add_groups(const float* sums, int64_t groups, int64_t pitch, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) {
    float total = 0;
    for (int64_t g = 0; g < groups; ++g) total += sums[g * pitch + i];
    to[i] = total;
  }
}

template <class T>
void backward(const Coefficients& of, const T* streams, const float* fn, const Gradients<T>& to, int64_t tokens) {
  struct Tag;
  const int64_t groups = (tokens + Vec::lanes - 1) / Vec::lanes, pitch = of.rows + parts;
  float* projected = Scratch<Tag>::template get<float>(tokens * (of.rows + weights(of)) + groups * pitch);
  float *by = projected + tokens * of.rows, *sums = by + tokens * weights(of);
  project(streams, fn, projected, tokens, of.rows, of.n * of.width);
  coefficients_back(of, streams, projected, to, by, sums, tokens);
  if (to.base) add_groups(sums, groups, pitch, of.rows, to.base);
  if (to.scale) add_groups(sums + of.rows, groups, pitch, of.rows > of.n ? parts : 1, to.scale);
  if (to.streams || to.fn) strips_back(of, streams, fn, by, to, tokens);
}

}  // namespace

void mhc_pre_backward(const void* d_y, const float* d_post, const float* d_comb, const void* streams, const float* fn,
                      const float* scale, const float* base, void* d_streams, float* d_fn, float* d_scale, float* d_base, Type type,
                      int64_t tokens, int64_t n, int64_t width, int64_t iters, float eps, float norm_eps) {
  const Coefficients of{scale, base, n, width, (2 + n) * n, iters, eps, norm_eps};
  visit(type, [&](auto element) {
    using T = decltype(element);
    const Gradients<T> gradients{static_cast<const T*>(d_y), d_post, d_comb, static_cast<T*>(d_streams), d_fn, d_scale, d_base};
    backward(of, static_cast<const T*>(streams), fn, gradients, tokens);
  });
}

void mhc_head_backward(const void* d_y, const void* streams, const float* fn, const float* scale, const float* base,
                       void* d_streams, float* d_fn, float* d_scale, float* d_base, Type type, int64_t tokens, int64_t n,
                       int64_t width, float eps, float norm_eps) {
  const Coefficients of{scale, base, n, width, n, 0, eps, norm_eps};
  visit(type, [&](auto element) {
    using T = decltype(element);
    const Gradients<T> gradients{static_cast<const T*>(d_y), nullptr, nullptr, static_cast<T*>(d_streams), d_fn, d_scale, d_base};
    backward(of, static_cast<const T*>(streams), fn, gradients, tokens);
  });
}

}  // namespace deepport::DEEPPORT_LEVEL
