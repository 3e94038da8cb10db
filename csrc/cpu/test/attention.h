// A call of attention, for tests: two sequences over paged caches, and what each token sees.
#pragma once

#include <algorithm>
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

  // Of an entry with a token's row of head h, of q or of anything like it.
  double product(const Guarded<T>& rows, int64_t t, int64_t h, const std::pair<const Cache<T>*, size_t>& entry) const {
    double sum = 0;
    for (int64_t d = 0; d < sizes.size; ++d)
      sum += double(host::widen(rows[size_t((t * sizes.heads + h) * sizes.size + d)])) * entry.first->at(entry.second, d, sizes.size);
    return sum;
  }
};

}  // namespace
}  // namespace deepport::test
