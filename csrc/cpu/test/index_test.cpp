#include <algorithm>
#include <numeric>

#include "threads.h"

namespace deepport::test {
namespace {

// One sequence whose new tokens are its last; pages in reverse order.
template <class T>
struct Index {
  int64_t tokens, heads, size, entries, page, ratio, k, columns;
  std::mt19937 generator;
  Guarded<T> q, pages;
  Guarded<float> weights;
  Guarded<int32_t> table, cu_seqlens, ids;
  Guarded<int64_t> positions;

  Index(int64_t t, int64_t h, int64_t d, int64_t e, int64_t p, int64_t r, int64_t chosen)
      : tokens(t), heads(h), size(d), entries(e), page(p), ratio(r), k(chosen), columns((e + p - 1) / p),
        generator(unsigned(e * 100 + h)),
        q(normal<T>(generator, size_t((t + 1) * h * d))),
        pages(normal<T>(generator, size_t(columns * p * d))),
        weights(normal<float>(generator, size_t((t + 1) * h))),
        table(size_t(columns)), cu_seqlens(2), ids(size_t((t + 1) * k)), positions(size_t(t + 1)) {
    std::iota(table.data(), table.data() + columns, 0);
    std::reverse(table.data(), table.data() + columns);
    cu_seqlens[0] = 0, cu_seqlens[1] = int32_t(t);
    for (int64_t i = 0; i < t; ++i) positions[size_t(i)] = e * r - t + i;
  }

  T& key(int64_t s, int64_t d) { return pages[size_t((table[size_t(s / page)] * page + s % page) * size + d)]; }

  void run(const Table& kernels) {
    kernels.index_topk(q.data(), weights.data(), pages.data(), table.data(), positions.data(), cu_seqlens.data(), ids.data(), type_of<T>,
                       tokens + 1, heads, size, 1, columns, page, columns, ratio, k);
  }

  double score(int64_t t, int64_t s, double& scale) {
    double sum = 0;
    scale = 0;
    for (int64_t h = 0; h < heads; ++h) {
      const double w = double(weights[size_t(t * heads + h)]);
      double product = 0;
      for (int64_t d = 0; d < size; ++d) {
        const double term = double(host::widen(q[size_t((t * heads + h) * size + d)])) * double(host::widen(key(s, d)));
        product += term, scale += std::abs(w * term);
      }
      sum += w * std::max(product, 0.0);
    }
    return sum;
  }

  // Nothing that was left is better than what was taken, but for rounding.
  void check(int64_t t) {
    const int32_t* chosen = ids.data() + t * k;
    const int64_t ready = (positions[size_t(t)] + 1) / ratio, wanted = std::min(k, ready);
    CHECK(std::is_sorted(chosen, chosen + wanted) && std::adjacent_find(chosen, chosen + wanted) == chosen + wanted);
    CHECK(std::all_of(chosen, chosen + wanted, [&](int32_t id) { return id >= 0 && id < ready; }));
    CHECK(std::all_of(chosen + wanted, chosen + k, [](int32_t id) { return id == -1; }));
    double least = INFINITY, most = -INFINITY, scale;
    for (int64_t s = 0; s < ready; ++s) {
      const double found = score(t, s, scale), slack = scale * 1e-6;
      if (std::binary_search(chosen, chosen + wanted, int32_t(s)))
        least = std::min(least, found + slack);
      else
        most = std::max(most, found - slack);
    }
    CHECK(most <= least);
  }
};

template <class T>
void agrees(const Table& kernels, Index<T> index) {
  index.run(kernels);
  for (int64_t t = 0; t < index.tokens; ++t) index.check(t);
  for (int64_t i = 0; i < index.k; ++i) CHECK(index.ids[size_t(index.tokens * index.k + i)] == -1);
}

// Scores that are the weight times the key, of one head with one channel.
struct Plain : Index<float> {
  Plain(int64_t e, int64_t chosen, float weight) : Index(1, 1, 1, e, 64, 1, chosen) { q[0] = 1, weights[0] = weight; }

  void expect(const Table& kernels, const std::vector<int32_t>& wanted) {
    run(kernels);
    CHECK(std::equal(wanted.begin(), wanted.end(), ids.data()));
  }
};

}  // namespace

TEST(index_topk_of_any_size) {
  agrees(kernels, Index<float>(1, 1, 1, 0, 8, 4, 3));
  for (const int64_t tokens : {1, 20}) {
    agrees(kernels, Index<float>(tokens, 3, 33, 70, 7, 4, 8));
    agrees(kernels, Index<bfloat16>(tokens, 17, 31, 70, 7, 4, 100));
    agrees(kernels, Index<bfloat16>(tokens, 16, 64, 3000, 64, 1, 100));
    agrees(kernels, Index<float>(tokens, 8, 128, 2000, 64, 1, 512));
  }
}

TEST(index_topk_gives_ties_to_the_lowest) {
  Plain plain(5000, 3, 1);
  for (int64_t s = 0; s < plain.entries; ++s) plain.key(s, 0) = s == 4000 ? 2.0f : 1.0f;
  plain.expect(kernels, {0, 1, 4000});
  plain.weights[0] = -1;
  plain.expect(kernels, {0, 1, 2});
  plain.weights[0] = 0;
  plain.expect(kernels, {0, 1, 2});
}

TEST(index_topk_keeps_the_best_however_they_come) {
  Plain plain(9000, 4, 1);
  for (int64_t s = 0; s < plain.entries; ++s) plain.key(s, 0) = float(s);
  plain.expect(kernels, {8996, 8997, 8998, 8999});
  plain.weights[0] = -1;
  plain.expect(kernels, {0, 1, 2, 3});
}

TEST(index_topk_never_takes_nan_but_minus_infinity) {
  Plain plain(4000, 4, -1);
  for (int64_t s = 0; s < plain.entries; ++s) plain.key(s, 0) = s % 1000 == 7 ? INFINITY : NAN;
  plain.expect(kernels, {7, 1007, 2007, 3007});
  plain.key(7, 0) = NAN;
  plain.expect(kernels, {1007, 2007, 3007, -1});
}

TEST(index_topk_is_the_same_for_any_threads) {
  Index<bfloat16> index(3, 16, 64, 4000, 64, 4, 200);
  same_on_any_threads([&] {
    index.run(kernels);
    return bytes(index.ids);
  });
}

TEST(index_topk_refuses_what_is_outside) {
  Index<float> index(1, 2, 8, 100, 8, 1, 4);
  index.table[3] = int32_t(index.columns);
  CHECK(refused([&] { index.run(kernels); }));
}

TEST(index_topk_refuses_sequences_that_do_not_follow_one_another) {
  for (const auto& [first, end] : {std::pair{1, 1}, {-1, 1}, {1, 0}, {0, -1}, {0, 3}}) {
    Index<float> index(1, 2, 8, 100, 8, 1, 4);
    index.cu_seqlens[0] = first, index.cu_seqlens[1] = end;
    CHECK(refused([&] { index.run(kernels); }));
  }
}

}  // namespace deepport::test
