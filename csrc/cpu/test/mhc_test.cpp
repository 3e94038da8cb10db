#include <omp.h>

#include <cstring>

#include "check.h"

namespace deepport::test {
namespace {

constexpr float eps = 1e-6f;

template <class T>
struct Streams {
  int64_t tokens, n, width, rows;
  Guarded<T> x;
  Guarded<float> fn, scale, base;

  Streams(int64_t count, int64_t streams, int64_t channels, int64_t coefficients)
      : Streams(std::mt19937(unsigned(count * 100 + streams * 10 + channels)), count, streams, channels, coefficients) {}

  Streams(std::mt19937 g, int64_t count, int64_t streams, int64_t channels, int64_t coefficients)
      : tokens(count), n(streams), width(channels), rows(coefficients),
        x(normal<T>(g, size_t(tokens * n * width))),
        fn(normal<float>(g, size_t(rows * n * width), 1 / std::sqrt(float(n * width)))),
        scale(normal<float>(g, rows == n ? 1 : 3)),
        base(normal<float>(g, size_t(rows))) {}

  double at(int64_t t, int64_t i, int64_t c) const { return double(host::widen(x[size_t((t * n + i) * width + c)])); }

  // What goes into the coefficients' functions.
  std::vector<double> logits(int64_t t) const {
    double squares = 0;
    for (int64_t c = 0; c < n * width; ++c) squares += at(t, 0, c) * at(t, 0, c);
    std::vector<double> found;
    for (int64_t r = 0; r < rows; ++r) {
      double product = 0;
      for (int64_t c = 0; c < n * width; ++c) product += double(fn[size_t(r * n * width + c)]) * at(t, 0, c);
      const double factor = 1 / std::sqrt(squares / double(n * width) + double(eps));
      found.push_back(product * factor * double(scale[size_t(r < n ? 0 : r < 2 * n ? 1 : 2)]) + double(base[size_t(r)]));
    }
    return found;
  }
};

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// comb [n, n] divided by its sums: of columns, and then of rows and columns in turn.
void sinkhorn(std::vector<double>& comb, size_t n, int64_t iters) {
  for (size_t i = 0; i < n; ++i) {
    double total = 0;
    for (size_t j = 0; j < n; ++j) total += std::exp(comb[i * n + j]);
    for (size_t j = 0; j < n; ++j) comb[i * n + j] = std::exp(comb[i * n + j]) / total + double(eps);
  }
  for (int64_t half = 1; half < 2 * iters; ++half)
    for (size_t i = 0; i < n; ++i) {
      const size_t outer = half % 2 ? 1 : n, inner = half % 2 ? n : 1;
      double total = double(eps);
      for (size_t j = 0; j < n; ++j) total += comb[i * outer + j * inner];
      for (size_t j = 0; j < n; ++j) comb[i * outer + j * inner] /= total;
    }
}

template <class T>
void check_collapsed(const Streams<T>& of, const Guarded<T>& y, int64_t t, const std::vector<double>& logits) {
  for (int64_t c = 0; c < of.width; ++c) {
    double wanted = 0, size = 0;
    for (int64_t i = 0; i < of.n; ++i) {
      const double term = (sigmoid(logits[size_t(i)]) + double(eps)) * of.at(t, i, c);
      wanted += term;
      size += std::abs(term);
    }
    CHECK(near(double(host::widen(y[size_t(t * of.width + c)])), wanted, rounding<T>, size * 0x1p-18));
  }
}

template <class T>
void agrees(const Table& kernels, int64_t tokens, int64_t n, int64_t width, int64_t iters) {
  const Streams<T> of(tokens, n, width, (2 + n) * n);
  Guarded<T> y(size_t(tokens * width));
  Guarded<float> post(size_t(tokens * n)), comb(size_t(tokens * n * n));
  kernels.mhc_pre(of.x.data(), of.fn.data(), of.scale.data(), of.base.data(), y.data(), post.data(), comb.data(), type_of<T>,
                  tokens, n, width, iters, eps, eps);
  for (int64_t t = 0; t < tokens; ++t) {
    const std::vector<double> logits = of.logits(t);
    check_collapsed(of, y, t, logits);
    for (int64_t i = 0; i < n; ++i) CHECK(near(double(post[size_t(t * n + i)]), 2 * sigmoid(logits[size_t(n + i)]), 0x1p-18));
    std::vector<double> wanted(logits.begin() + 2 * n, logits.end());
    sinkhorn(wanted, size_t(n), iters);
    for (int64_t i = 0; i < n * n; ++i) CHECK(near(double(comb[size_t(t * n * n + i)]), wanted[size_t(i)], 0x1p-16));
  }
}

template <class T>
void head_agrees(const Table& kernels, int64_t tokens, int64_t n, int64_t width) {
  const Streams<T> of(tokens, n, width, n);
  Guarded<T> y(size_t(tokens * width));
  kernels.mhc_head(of.x.data(), of.fn.data(), of.scale.data(), of.base.data(), y.data(), type_of<T>, tokens, n, width, eps, eps);
  for (int64_t t = 0; t < tokens; ++t) check_collapsed(of, y, t, of.logits(t));
}

template <class T>
void post_agrees(const Table& kernels, int64_t tokens, int64_t n, int64_t width) {
  const Streams<T> of(tokens, n, width, n);
  std::mt19937 g(7);
  const Guarded<T> y = normal<T>(g, size_t(tokens * width));
  const Guarded<float> post = normal<float>(g, size_t(tokens * n)), comb = normal<float>(g, size_t(tokens * n * n));
  Guarded<T> mixed(size_t(tokens * n * width));
  kernels.mhc_post(y.data(), of.x.data(), post.data(), comb.data(), mixed.data(), type_of<T>, tokens, n, width);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t m = 0; m < n; ++m)
      for (int64_t c = 0; c < width; ++c) {
        double wanted = double(post[size_t(t * n + m)]) * double(host::widen(y[size_t(t * width + c)])), size = std::abs(wanted);
        for (int64_t k = 0; k < n; ++k) {
          const double term = double(comb[size_t((t * n + k) * n + m)]) * of.at(t, k, c);
          wanted += term;
          size += std::abs(term);
        }
        CHECK(near(double(host::widen(mixed[size_t((t * n + m) * width + c)])), wanted, rounding<T>, size * 0x1p-20));
      }
}

// A token's results, for so many tokens and threads.
std::vector<float> one_of(const Table& kernels, int64_t tokens, int threads) {
  const int64_t n = 4, width = 1024;
  const Streams<bfloat16> of(40, n, width, (2 + n) * n);
  std::vector<bfloat16> y(size_t(tokens * width));
  std::vector<float> post(size_t(tokens * n)), comb(size_t(tokens * n * n));
  const int before = omp_get_max_threads();
  omp_set_num_threads(threads);
  kernels.mhc_pre(of.x.data(), of.fn.data(), of.scale.data(), of.base.data(), y.data(), post.data(), comb.data(), Type::bfloat16,
                  tokens, n, width, 20, eps, eps);
  omp_set_num_threads(before);
  std::vector<float> found(post.begin(), post.begin() + n);
  found.insert(found.end(), comb.begin(), comb.begin() + n * n);
  for (int64_t c = 0; c < width; ++c) found.push_back(host::widen(y[size_t(c)]));
  return found;
}

}  // namespace

TEST(mhc_of_any_size) {
  for (int64_t tokens : {0, 1, 3, 19})
    for (int64_t n : {1, 2, 4, 5})
      for (int64_t width : {1, 16, 37}) {
        agrees<float>(kernels, tokens, n, width, 20);
        agrees<bfloat16>(kernels, tokens, n, width, 1);
        head_agrees<float>(kernels, tokens, n, width);
        head_agrees<bfloat16>(kernels, tokens, n, width);
        post_agrees<float>(kernels, tokens, n, width);
        post_agrees<bfloat16>(kernels, tokens, n, width);
      }
}

TEST(mhc_is_the_same_in_any_company) {
  const std::vector<float> wanted = one_of(kernels, 1, 1);
  for (int64_t tokens : {1, 2, 5, 40})
    for (int threads : {1, 2, 3})
      CHECK(!std::memcmp(one_of(kernels, tokens, threads).data(), wanted.data(), wanted.size() * sizeof(float)));
}

}  // namespace deepport::test
