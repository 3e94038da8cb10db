#include "check.h"
#include "gradients.h"

namespace deepport::test {
namespace {

// Large enough that a missing one shows.
constexpr float eps = 1e-3f, norm_eps = 1e-2f;

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// A call of mhc_pre, or of mhc_head where rows is n, and gradients of its results, of which any may be null.
template <class T>
struct Call {
  int64_t tokens, n, width, rows, iters;
  std::mt19937 g;
  Guarded<T> x;
  Guarded<float> fn, scale, base;
  Guarded<T> d_y;
  Guarded<float> d_post, d_comb;

  Call(int64_t count, int64_t streams, int64_t channels, bool head, int64_t iterations)
      : tokens(count), n(streams), width(channels), rows(head ? n : (2 + n) * n), iters(iterations),
        g(unsigned(count * 1000 + streams * 100 + channels)),
        x(normal<T>(g, size_t(tokens * n * width))),
        fn(normal<float>(g, size_t(rows * n * width), 1 / std::sqrt(float(n * width)))),
        scale(normal<float>(g, head ? 1 : 3)),
        base(normal<float>(g, size_t(rows))),
        d_y(normal<T>(g, size_t(tokens * width))),
        d_post(normal<float>(g, size_t(tokens * n))),
        d_comb(normal<float>(g, size_t(tokens * n * n))) {}

  bool head() const { return rows == n; }
  int64_t size() const { return n * width; }
};

struct Given {
  bool y = true, post = true, comb = true;
};

struct Asked {
  bool streams = true, fn = true, scale = true, base = true;
};

template <class T>
struct Found {
  Guarded<T> streams;
  Guarded<float> fn, scale, base;

  explicit Found(const Call<T>& of)
      : streams(of.x.size()), fn(of.fn.size()), scale(of.scale.size()), base(of.base.size()) {}
};

template <class T>
Found<T> run(const Table& kernels, const Call<T>& of, Given given = {}, Asked asked = {}) {
  Found<T> to(of);
  const void* y = given.y ? of.d_y.data() : nullptr;
  void* streams = asked.streams ? to.streams.data() : nullptr;
  float *fn = asked.fn ? to.fn.data() : nullptr, *scale = asked.scale ? to.scale.data() : nullptr;
  float* base = asked.base ? to.base.data() : nullptr;
  if (of.head())
    kernels.mhc_head_backward(y, of.x.data(), of.fn.data(), of.scale.data(), of.base.data(), streams, fn, scale, base, type_of<T>,
                              of.tokens, of.n, of.width, eps, norm_eps);
  else
    kernels.mhc_pre_backward(y, given.post ? of.d_post.data() : nullptr, given.comb ? of.d_comb.data() : nullptr, of.x.data(),
                             of.fn.data(), of.scale.data(), of.base.data(), streams, fn, scale, base, type_of<T>, of.tokens, of.n,
                             of.width, of.iters, eps, norm_eps);
  return to;
}

// The line i of a matrix [n, n] that is divided: a column, or a row.
struct Line {
  size_t i, n;
  bool column;
  size_t operator[](size_t j) const { return column ? j * n + i : i * n + j; }
};

// d [n, n] of sinkhorn(softmax(logits) + eps) becomes that of the logits.
void sinkhorn_back(const Numbers& logits, Numbers& d, size_t n, int64_t iters) {
  Numbers soft(logits.size());
  for (size_t i = 0; i < n; ++i) {
    double total = 0;
    for (size_t j = 0; j < n; ++j) total += std::exp(logits[i * n + j]);
    for (size_t j = 0; j < n; ++j) soft[i * n + j] = std::exp(logits[i * n + j]) / total;
  }
  std::vector<Numbers> states{soft};
  for (double& v : states[0]) v += double(eps);
  for (int64_t k = 0; k < 2 * iters - 1; ++k) {
    Numbers next = states.back();
    for (size_t i = 0; i < n; ++i) {
      const Line line{i, n, k % 2 == 0};
      double total = double(eps);
      for (size_t j = 0; j < n; ++j) total += states.back()[line[j]];
      for (size_t j = 0; j < n; ++j) next[line[j]] /= total;
    }
    states.push_back(next);
  }
  // Of y = x / s with s = sum(x) + eps: dx[j] = dy[j] / s - sum_k dy[k] x[k] / s^2.
  for (int64_t k = 2 * iters - 2; k >= 0; --k)
    for (size_t i = 0; i < n; ++i) {
      const Line line{i, n, k % 2 == 0};
      const Numbers& x = states[size_t(k)];
      double total = double(eps), along = 0;
      for (size_t j = 0; j < n; ++j) total += x[line[j]];
      for (size_t j = 0; j < n; ++j) along += d[line[j]] * x[line[j]];
      for (size_t j = 0; j < n; ++j) d[line[j]] = d[line[j]] / total - along / (total * total);
    }
  for (size_t i = 0; i < n; ++i) {
    double along = 0;
    for (size_t j = 0; j < n; ++j) along += d[i * n + j] * soft[i * n + j];
    for (size_t j = 0; j < n; ++j) d[i * n + j] = soft[i * n + j] * (d[i * n + j] - along);
  }
}

// Gradients in float64, and of each how large what was added is, to which roundings are relative.
struct Sums {
  Numbers values, sizes;

  explicit Sums(size_t count) : values(count), sizes(count) {}
  void add(size_t i, double value, double size) {
    values[i] += value;
    sizes[i] += size;
  }
};

struct Wanted {
  Sums streams, fn, scale, base;
};

// How a token's gradients come about, in float64.
struct Token {
  const double *x, *d_y;  // d_y null for none
  double factor;
  Numbers mixes, a, d;
  double largest;  // that d and its terms add up to
};

template <class T>
struct Doubles {
  const Call<T>& of;
  Given given;
  size_t n, width, size, rows;
  Numbers x, fn, scale, base, d_y;

  Doubles(const Call<T>& call, Given those)
      : of(call), given(those), n(size_t(of.n)), width(size_t(of.width)), size(n * width), rows(size_t(of.rows)),
        x(doubles(of.x)), fn(doubles(of.fn)), scale(doubles(of.scale)), base(doubles(of.base)), d_y(doubles(of.d_y)) {}

  size_t part(size_t r) const { return r < n ? 0 : r < 2 * n ? 1 : 2; }

  // Up to the logits.
  Token forward(size_t t) const {
    Token to{x.data() + t * size, given.y ? d_y.data() + t * width : nullptr, 0, Numbers(rows), Numbers(rows), Numbers(rows), 0};
    double squares = 0;
    for (size_t c = 0; c < size; ++c) squares += to.x[c] * to.x[c];
    to.factor = 1 / std::sqrt(squares / double(size) + double(norm_eps));
    for (size_t r = 0; r < rows; ++r) {
      for (size_t c = 0; c < size; ++c) to.mixes[r] += fn[r * size + c] * to.x[c] * to.factor;
      to.a[r] = to.mixes[r] * scale[part(r)] + base[r];
    }
    return to;
  }

  void collapse_back(Token& to) const {
    for (size_t i = 0; i < n && to.d_y; ++i) {
      for (size_t c = 0; c < width; ++c) {
        to.d[i] += to.d_y[c] * to.x[i * width + c];
        to.largest += std::abs(to.d_y[c] * to.x[i * width + c]);
      }
      to.d[i] *= sigmoid(to.a[i]) * (1 - sigmoid(to.a[i]));
    }
  }

  void post_and_comb_back(Token& to, size_t t) const {
    for (size_t i = 0; i < n && given.post; ++i)
      to.d[n + i] = 2 * double(of.d_post[t * n + i]) * sigmoid(to.a[n + i]) * (1 - sigmoid(to.a[n + i]));
    Numbers square(n * n);
    for (size_t i = 0; i < n * n && given.comb; ++i) {
      square[i] = double(of.d_comb[t * n * n + i]);
      to.largest += std::abs(square[i]);
    }
    sinkhorn_back(Numbers(to.a.begin() + 2 * int64_t(n), to.a.end()), square, n, of.iters);
    for (size_t i = 0; i < n * n; ++i) to.d[2 * n + i] = square[i];
  }

  void add_parameters(const Token& from, Wanted& to) const {
    for (size_t r = 0; r < rows; ++r) {
      to.base.add(r, from.d[r], from.largest);
      to.scale.add(part(r), from.d[r] * from.mixes[r], from.largest * (1 + std::abs(from.mixes[r])));
      for (size_t c = 0; c < size; ++c) {
        const double weight = scale[part(r)] * from.factor * from.x[c];
        to.fn.add(r * size + c, from.d[r] * weight, from.largest * std::abs(weight));
      }
    }
  }

  void add_streams(const Token& from, size_t t, Wanted& to) const {
    double along = 0;
    for (size_t r = 0; r < rows; ++r) along += from.d[r] * scale[part(r)] * from.mixes[r];
    for (size_t c = 0; c < size; ++c) {
      const size_t at = t * size + c;
      const double normal = from.x[c] * from.factor;
      if (from.d_y) {
        const double through = (sigmoid(from.a[c / width]) + double(eps)) * from.d_y[c % width];
        to.streams.add(at, through, std::abs(through));
      }
      to.streams.add(at, -normal * from.factor * along / double(size), std::abs(normal) * from.factor * from.largest);
      for (size_t r = 0; r < rows; ++r) {
        const double weight = scale[part(r)] * fn[r * size + c] * from.factor;
        to.streams.add(at, from.d[r] * weight, from.largest * std::abs(weight));
      }
    }
  }
};

template <class T>
Wanted wanted(const Call<T>& of, Given given) {
  Wanted to{Sums(of.x.size()), Sums(of.fn.size()), Sums(of.scale.size()), Sums(of.base.size())};
  const Doubles<T> all(of, given);
  for (size_t t = 0; t < size_t(of.tokens); ++t) {
    Token token = all.forward(t);
    all.collapse_back(token);
    if (!of.head()) all.post_and_comb_back(token, t);
    for (double d : token.d) token.largest += std::abs(d);
    all.add_parameters(token, to);
    all.add_streams(token, t, to);
  }
  return to;
}

template <class T>
void close(const Guarded<T>& found, const Sums& expected) {
  for (size_t i = 0; i < found.size(); ++i)
    CHECK(near(double(host::widen(found[i])), expected.values[i], rounding<T>, expected.sizes[i] * 0x1p-18));
}

template <class T>
void agrees(const Table& kernels, const Call<T>& of, Given given = {}) {
  const Found<T> found = run(kernels, of, given);
  const Wanted expected = wanted(of, given);
  close(found.streams, expected.streams);
  close(found.fn, expected.fn);
  close(found.scale, expected.scale);
  close(found.base, expected.base);
}

template <class T>
bool same(const Found<T>& a, const Found<T>& b) {
  return same(a.streams, b.streams) && same(a.fn, b.fn) && same(a.scale, b.scale) && same(a.base, b.base);
}

// What is not asked for leaves the rest as it is, and its own room untouched.
template <class T>
void answers_what_is_asked(const Table& kernels, const Call<T>& of) {
  const Found<T> all = run(kernels, of);
  for (int mask = 0; mask < 16; ++mask) {
    const Asked asked{bool(mask & 1), bool(mask & 2), bool(mask & 4), bool(mask & 8)};
    const Found<T> some = run(kernels, of, {}, asked), none(of);
    CHECK(same(some.streams, asked.streams ? all.streams : none.streams));
    CHECK(same(some.fn, asked.fn ? all.fn : none.fn));
    CHECK(same(some.scale, asked.scale ? all.scale : none.scale));
    CHECK(same(some.base, asked.base ? all.base : none.base));
  }
}

}  // namespace

TEST(mhc_backward_of_any_size) {
  for (int64_t tokens : {0, 1, 3, 34})
    for (int64_t n : {1, 2, 4, 6})
      for (int64_t width : {1, 16, 37, 70}) {
        agrees<float>(kernels, {tokens, n, width, false, 20});
        agrees<bfloat16>(kernels, {tokens, n, width, false, 1});
        agrees<float>(kernels, {tokens, n, width, true, 0});
        agrees<bfloat16>(kernels, {tokens, n, width, true, 0});
      }
}

TEST(mhc_backward_without_some_gradients) {
  for (int mask = 0; mask < 8; ++mask)
    agrees<float>(kernels, {9, 4, 24, false, 3}, {bool(mask & 1), bool(mask & 2), bool(mask & 4)});
  agrees<float>(kernels, {9, 4, 24, true, 0}, {false});
}

TEST(mhc_backward_answers_what_is_asked) {
  answers_what_is_asked<float>(kernels, {9, 4, 24, false, 3});
  answers_what_is_asked<bfloat16>(kernels, {9, 2, 21, true, 0});
}

TEST(mhc_backward_is_the_same_on_any_threads) {
  const Call<float> pre(333, 4, 100, false, 20);
  const Call<bfloat16> head(333, 3, 150, true, 0);
  for (int threads : {2, 3}) {
    CHECK(same(on_threads(threads, [&] { return run(kernels, pre); }), on_threads(1, [&] { return run(kernels, pre); })));
    CHECK(same(on_threads(threads, [&] { return run(kernels, head); }), on_threads(1, [&] { return run(kernels, head); })));
  }
}

}  // namespace deepport::test
