#include <omp.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "check.h"

namespace deepport::test {
namespace {

struct Sizes {
  int64_t heads, size, window_size, ratio, selected;
  bool chosen, sink;
};

template <class T>
Guarded<T> copied(const std::vector<T>& values) {
  Guarded<T> found(values.size());
  std::copy(values.begin(), values.end(), found.data());
  return found;
}

// Pages of all sequences, shuffled, with room for `entries` of each.
template <class T>
struct Cache {
  static constexpr int64_t page = 5;
  int64_t columns;
  Guarded<int32_t> table;
  Guarded<T> pages;

  Cache(std::mt19937& generator, int64_t sequences, int64_t entries, int64_t size)
      : columns(entries / page + 1),
        table(size_t(sequences * columns)),
        pages(normal<T>(generator, size_t(sequences * columns * page * size))) {
    std::iota(table.data(), table.data() + table.size(), 0);
    std::shuffle(table.data(), table.data() + table.size(), generator);
  }
  int64_t count() const { return int64_t(table.size()); }
  size_t row(int64_t sequence, int64_t entry) const {
    return size_t(table[size_t(sequence * columns + entry / page)] * page + entry % page);
  }
  double at(size_t row, int64_t d, int64_t size) const { return double(host::widen(pages[row * size_t(size) + size_t(d)])); }
};

// Two sequences, with 3 and 2 new tokens and some older ones, and a row of padding.
template <class T>
struct Batch {
  static constexpr int64_t sequences = 2, tokens = 6;
  Guarded<int64_t> positions = copied<int64_t>({300, 301, 302, 0, 1, 7});
  Guarded<int32_t> cu_seqlens = copied<int32_t>({0, 3, 5});
  static int64_t sequence_of(int64_t t) { return t < 3 ? 0 : 1; }
};

template <class T>
struct Attention {
  Sizes sizes;
  std::mt19937 generator;
  Batch<T> batch;
  Cache<T> window, compressed;
  Guarded<T> q, o;
  Guarded<float> sink, lse;
  Guarded<int32_t> indices;

  explicit Attention(const Sizes& s)
      : sizes(s),
        generator(unsigned(s.heads * 1000 + s.size)),
        window(generator, 2, 303, s.size),
        compressed(generator, 2, s.ratio ? 303 / s.ratio : 0, s.size),
        q(normal<T>(generator, size_t(batch.tokens * s.heads * s.size))),
        o(q.size()),
        sink(normal<float>(generator, size_t(s.heads))),
        lse(size_t(batch.tokens * s.heads)),
        indices(size_t(batch.tokens * s.selected)) {
    for (int64_t t = 0; t < batch.tokens; ++t)
      for (int64_t i = 0; i < s.selected; ++i) {
        const int64_t ready = (batch.positions[size_t(t)] + 1) / s.ratio;
        indices[size_t(t * s.selected + i)] = i < ready && i % 3 ? int32_t(i * (ready / s.selected + 1) % ready) : -1;
      }
  }

  void run(const Table& kernels) {
    kernels.sparse_attention(q.data(), window.pages.data(), window.table.data(), sizes.ratio ? compressed.pages.data() : nullptr,
                             compressed.table.data(), sizes.chosen ? indices.data() : nullptr, sizes.sink ? sink.data() : nullptr,
                             batch.positions.data(), batch.cu_seqlens.data(), o.data(), lse.data(), type_of<T>, batch.tokens,
                             sizes.heads, sizes.size, batch.sequences, window.count(), window.page, window.columns,
                             compressed.count(), compressed.page, compressed.columns, sizes.selected,
                             1 / std::sqrt(float(sizes.size)), sizes.window_size, sizes.ratio);
  }

  // Rows of the window's cache, then of the compressed one.
  std::vector<std::pair<const Cache<T>*, size_t>> seen(int64_t t) const {
    std::vector<std::pair<const Cache<T>*, size_t>> rows;
    const int64_t b = batch.sequence_of(t), p = batch.positions[size_t(t)];
    for (int64_t s = std::max<int64_t>(p - sizes.window_size + 1, 0); s <= p; ++s) rows.emplace_back(&window, window.row(b, s));
    if (!sizes.ratio) return rows;
    if (!sizes.chosen)
      for (int64_t s = 0; s < (p + 1) / sizes.ratio; ++s) rows.emplace_back(&compressed, compressed.row(b, s));
    else
      for (int64_t i = 0; i < sizes.selected; ++i)
        if (const int32_t s = indices[size_t(t * sizes.selected + i)]; s >= 0) rows.emplace_back(&compressed, compressed.row(b, s));
    return rows;
  }

  void check(int64_t t, int64_t h) const {
    const int64_t size = sizes.size;
    const auto rows = seen(t);
    std::vector<double> weights;
    double total = 0, with_sink = sizes.sink ? std::exp(double(sink[size_t(h)])) : 0;
    for (const auto& [cache, row] : rows) {
      double score = 0;
      for (int64_t d = 0; d < size; ++d) score += double(host::widen(q[size_t((t * sizes.heads + h) * size + d)])) * cache->at(row, d, size);
      weights.push_back(std::exp(score / std::sqrt(double(size))));
      total += weights.back();
    }
    with_sink += total;
    CHECK(near(double(lse[size_t(t * sizes.heads + h)]), std::log(total), 1e-5, 1e-5));
    for (int64_t d = 0; d < size; ++d) {
      double wanted = 0, scale = 0;
      for (size_t i = 0; i < rows.size(); ++i) {
        const double part = weights[i] / with_sink * rows[i].first->at(rows[i].second, d, size);
        wanted += part, scale += std::abs(part);
      }
      CHECK(near(double(host::widen(o[size_t((t * sizes.heads + h) * size + d)])), wanted, rounding<T>, scale * rounding<T> + 2e-6));
    }
  }
};

template <class T>
void agrees(const Table& kernels, const Sizes& sizes) {
  Attention<T> attention(sizes);
  attention.run(kernels);
  for (int64_t h = 0; h < sizes.heads; ++h) {
    for (int64_t t = 0; t < 5; ++t) attention.check(t, h);
    CHECK(attention.lse[size_t(5 * sizes.heads + h)] == -INFINITY);
    for (int64_t d = 0; d < sizes.size; ++d) CHECK(host::widen(attention.o[size_t((5 * sizes.heads + h) * sizes.size + d)]) == 0);
  }
}

template <class T>
void same_for_any_threads(const Table& kernels) {
  Attention<T> attention({16, 64, 128, 1, 0, false, true});
  std::vector<T> first;
  const int before = omp_get_max_threads();
  for (int threads : {1, 2, 3}) {
    omp_set_num_threads(threads);
    attention.run(kernels);
    if (first.empty()) first.assign(attention.o.data(), attention.o.data() + attention.o.size());
    CHECK(!std::memcmp(first.data(), attention.o.data(), first.size() * sizeof(T)));
  }
  omp_set_num_threads(before);
}

}  // namespace

TEST(sparse_attention_of_any_size) {
  for (const Sizes& sizes : {Sizes{1, 1, 1, 0, 0, false, false}, Sizes{3, 33, 128, 4, 7, true, true}, Sizes{17, 64, 12, 1, 0, false, true},
                             Sizes{64, 96, 128, 4, 70, true, false}, Sizes{16, 256, 64, 16, 0, false, true}}) {
    agrees<float>(kernels, sizes);
    agrees<bfloat16>(kernels, sizes);
  }
}

TEST(sparse_attention_is_the_same_for_any_threads) {
  same_for_any_threads<float>(kernels);
  same_for_any_threads<bfloat16>(kernels);
}

TEST(sparse_attention_does_not_see_what_it_should_not) {
  Attention<float> attention({4, 32, 12, 4, 6, true, true});
  const float nan = std::nanf("");
  std::vector<bool> seen(size_t(attention.window.count() * attention.window.page));
  for (int64_t t = 0; t < 5; ++t)
    for (const auto& [cache, row] : attention.seen(t))
      if (cache == &attention.window) seen[row] = true;
  for (size_t row = 0; row < seen.size(); ++row)
    if (!seen[row]) std::fill_n(attention.window.pages.data() + row * 32, 32, nan);
  attention.run(kernels);
  for (int64_t t = 0; t < 5; ++t) attention.check(t, t % 4);
}

TEST(sparse_attention_refuses_what_is_outside) {
  for (const int32_t page : {-1, 1 << 30}) {
    Attention<float> attention({4, 32, 12, 0, 0, false, true});
    std::fill_n(attention.window.table.data(), attention.window.table.size(), page);
    CHECK(refused([&] { attention.run(kernels); }));
  }
}

TEST(sparse_attention_refuses_sequences_that_do_not_follow_one_another) {
  for (const auto& [first, end] : {std::pair{1, 1}, {-1, 1}, {1, 0}, {0, -1}, {0, 1 << 30}}) {
    Attention<float> attention({4, 32, 12, 0, 0, false, true});
    int32_t* cu_seqlens = attention.batch.cu_seqlens.data();
    cu_seqlens[0] = first, cu_seqlens[attention.batch.sequences] = end;
    CHECK(refused([&] { attention.run(kernels); }));
  }
}

}  // namespace deepport::test
