#include "check.h"
#include "gradients.h"

namespace deepport::test {
namespace {

// A call of mhc_post, and the gradient of its result.
template <class T>
struct Post {
  int64_t tokens, n, width;
  std::mt19937 g{5};
  Guarded<T> d, y, x;
  Guarded<float> post, comb;

  Post(int64_t count, int64_t streams, int64_t channels)
      : tokens(count), n(streams), width(channels),
        d(normal<T>(g, size_t(tokens * n * width))),
        y(normal<T>(g, size_t(tokens * width))),
        x(normal<T>(g, size_t(tokens * n * width))),
        post(normal<float>(g, size_t(tokens * n))),
        comb(normal<float>(g, size_t(tokens * n * n))) {}
};

template <class T>
struct Found {
  Guarded<T> y, x;
  Guarded<float> post, comb;

  explicit Found(const Post<T>& of) : y(of.y.size()), x(of.x.size()), post(of.post.size()), comb(of.comb.size()) {}
};

template <class T>
Found<T> run(const Table& kernels, const Post<T>& of, int mask = 15) {
  Found<T> to(of);
  kernels.mhc_post_backward(of.d.data(), of.y.data(), of.x.data(), of.post.data(), of.comb.data(),
                            mask & 1 ? to.y.data() : nullptr, mask & 2 ? to.x.data() : nullptr,
                            mask & 4 ? to.post.data() : nullptr, mask & 8 ? to.comb.data() : nullptr, type_of<T>, of.tokens, of.n,
                            of.width);
  return to;
}

// found against the sum of count terms.
template <class F>
bool is_sum(double found, int64_t count, double relative, F&& term) {
  double total = 0, size = 0;
  for (int64_t i = 0; i < count; ++i) total += term(i), size += std::abs(term(i));
  return near(found, total, relative, size * 0x1p-20);
}

template <class T>
void agrees(const Table& kernels, int64_t tokens, int64_t n, int64_t width) {
  const Post<T> of(tokens, n, width);
  const Found<T> found = run(kernels, of);
  const Numbers d = doubles(of.d), y = doubles(of.y), x = doubles(of.x), post = doubles(of.post), comb = doubles(of.comb);
  for (int64_t t = 0; t < tokens; ++t) {
    const auto at = [&](int64_t i, int64_t c) { return size_t((t * n + i) * width + c); };
    for (int64_t c = 0; c < width; ++c) {
      CHECK(is_sum(double(host::widen(found.y[size_t(t * width + c)])), n, rounding<T>,
                   [&](int64_t m) { return post[size_t(t * n + m)] * d[at(m, c)]; }));
      for (int64_t k = 0; k < n; ++k)
        CHECK(is_sum(double(host::widen(found.x[at(k, c)])), n, rounding<T>,
                     [&](int64_t m) { return comb[size_t((t * n + k) * n + m)] * d[at(m, c)]; }));
    }
    for (int64_t m = 0; m < n; ++m) {
      CHECK(is_sum(double(found.post[size_t(t * n + m)]), width, 0x1p-23,
                   [&](int64_t c) { return y[size_t(t * width + c)] * d[at(m, c)]; }));
      for (int64_t k = 0; k < n; ++k)
        CHECK(is_sum(double(found.comb[size_t((t * n + k) * n + m)]), width, 0x1p-23,
                     [&](int64_t c) { return x[at(k, c)] * d[at(m, c)]; }));
    }
  }
}

template <class T>
bool same(const Found<T>& a, const Found<T>& b) {
  return same(a.y, b.y) && same(a.x, b.x) && same(a.post, b.post) && same(a.comb, b.comb);
}

}  // namespace

TEST(mhc_post_backward_of_any_size) {
  for (int64_t tokens : {0, 1, 3, 34})
    for (int64_t n : {1, 2, 4, 6})
      for (int64_t width : {1, 16, 37, 70}) {
        agrees<float>(kernels, tokens, n, width);
        agrees<bfloat16>(kernels, tokens, n, width);
      }
}

TEST(mhc_post_backward_answers_what_is_asked) {
  const Post<float> of(9, 4, 24);
  const Found<float> all = run(kernels, of), none(of);
  for (int mask = 0; mask < 16; ++mask) {
    const Found<float> some = run(kernels, of, mask);
    CHECK(same(some.y, mask & 1 ? all.y : none.y));
    CHECK(same(some.x, mask & 2 ? all.x : none.x));
    CHECK(same(some.post, mask & 4 ? all.post : none.post));
    CHECK(same(some.comb, mask & 8 ? all.comb : none.comb));
  }
}

TEST(mhc_post_backward_is_the_same_on_any_threads) {
  const Post<bfloat16> of(333, 4, 100);
  const Found<bfloat16> alone = on_threads(1, [&] { return run(kernels, of); });
  for (int threads : {2, 3}) CHECK(same(on_threads(threads, [&] { return run(kernels, of); }), alone));
}

}  // namespace deepport::test
