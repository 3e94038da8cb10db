#include <stdexcept>

#include "batches.h"
#include "threads.h"

namespace deepport::test {
namespace {

constexpr double none = -INFINITY;

// A compression, and what it should give: every sequence's tokens from its first on, remembered one by one.
template <class T>
struct Compression {
  std::mt19937 generator{7};
  int64_t ratio, width, channels, rows, places;
  bool overlap;
  Guarded<float> bias, state;
  Guarded<int32_t> slots;
  std::vector<std::vector<std::vector<double>>> kv, gate;  // [sequence][token][channel]; gates are biased

  Compression(int64_t sequences, int64_t per_window, int64_t entry, bool halves)
      : ratio(per_window), width(entry), channels(entry * (halves ? 2 : 1)), rows(per_window * (halves ? 2 : 1)),
        places(sequences + 1), overlap(halves), bias(normal<float>(generator, size_t(ratio * channels))),
        state(size_t(places * rows * 2 * channels)), slots(size_t(sequences)), kv(size_t(sequences)), gate(size_t(sequences)) {
    for (int64_t i = 0; i < places * rows; ++i)
      for (int64_t c = channels; c < 2 * channels; ++c) state[size_t(i * 2 * channels + c)] = -INFINITY;
    for (int64_t b = 0; b < sequences; ++b) slots[size_t(b)] = int32_t(sequences - b);
  }

  // The weighted sum of a channel over window w of sequence b.
  double entry(size_t b, int64_t w, int64_t c) const {
    double top = none, weights = 0, sum = 0;
    for (int pass = 0; pass < 2; ++pass)
      for (int64_t i = overlap ? -ratio : 0; i < ratio; ++i) {
        const int64_t token = w * ratio + i, channel = c + (i < 0 || !overlap ? 0 : width);
        if (token < 0) continue;
        const double of = gate[b][size_t(token)][size_t(channel)];
        if (!pass) top = std::max(top, of);
        if (pass) weights += std::exp(of - top), sum += std::exp(of - top) * kv[b][size_t(token)][size_t(channel)];
      }
    return sum / weights;
  }

  // So many new tokens of each sequence; checks what comes out, bytes of which are returned.
  std::vector<char> go_on(const Table& kernels, const std::vector<int64_t>& lengths) {
    std::vector<int64_t> first;
    for (const auto& tokens : kv) first.push_back(int64_t(tokens.size()));
    const Batch batch(lengths, first, 1);
    const Guarded<T> x = normal<T>(generator, size_t(batch.tokens * channels)), g = normal<T>(generator, size_t(batch.tokens * channels));
    const int64_t most = batch.tokens / ratio + batch.sequences();
    Guarded<T> entries(size_t(most * width));
    Guarded<int64_t> ids(static_cast<size_t>(most));
    Guarded<int32_t> counts(lengths.size() + 1);
    kernels.compress_kv(x.data(), g.data(), bias.data(), state.data(), slots.data(), batch.positions.data(), batch.cu_seqlens.data(),
                        entries.data(), ids.data(), counts.data(), type_of<T>, batch.tokens, batch.sequences(), places, channels,
                        ratio, overlap);
    size_t e = 0;
    for (size_t b = 0; b < lengths.size(); ++b) {
      for (int64_t i = 0; i < lengths[b]; ++i) remember(b, x, g, batch.cu_seqlens[b] + i);
      const int64_t before = first[b] / ratio, after = (first[b] + lengths[b]) / ratio;
      for (int64_t w = before; w < after; ++w, ++e) {
        CHECK(ids[e] == w);
        for (int64_t c = 0; c < width; ++c)
          CHECK(near(double(host::widen(entries[e * size_t(width) + size_t(c)])), entry(b, w, c), rounding<T>, 0x1p-18));
      }
      CHECK(counts[b + 1] == int32_t(e));
    }
    for (; e < size_t(most); ++e) {
      CHECK(ids[e] == -1);
      for (int64_t c = 0; c < width; ++c) CHECK(host::widen(entries[e * size_t(width) + size_t(c)]) == 0);
    }
    const char* bytes = reinterpret_cast<const char*>(entries.data());
    return {bytes, bytes + entries.size() * sizeof(T)};
  }

 private:
  void remember(size_t b, const Guarded<T>& x, const Guarded<T>& g, int64_t row) {
    const size_t slot = kv[b].size() % size_t(ratio);
    auto& values = kv[b].emplace_back();
    auto& gates = gate[b].emplace_back();
    for (size_t c = 0; c < size_t(channels); ++c) {
      values.push_back(double(host::widen(x[size_t(row * channels) + c])));
      gates.push_back(double(host::widen(g[size_t(row * channels) + c]) + bias[slot * size_t(channels) + c]));
    }
  }
};

template <class T>
void agrees(const Table& kernels, int64_t ratio, int64_t width, bool overlap) {
  Compression<T> of(3, ratio, width, overlap);
  of.go_on(kernels, {ratio, 1, 0});
  for (int64_t i = 0; i < 2 * ratio; ++i) of.go_on(kernels, {1, 1, 1});
  of.go_on(kernels, {3 * ratio + 1, 0, ratio - 1});
  of.go_on(kernels, {2, 5, 1});
  of.go_on(kernels, {0, 0, 0});
}

}  // namespace

TEST(compression_of_any_windows) {
  for (int64_t ratio : {1, 2, 4, 7})
    for (int64_t width : {1, 16, 21})
      for (bool overlap : {false, true}) {
        agrees<float>(kernels, ratio, width, overlap);
        agrees<bfloat16>(kernels, ratio, width, overlap);
      }
}

TEST(compression_is_the_same_for_any_threads) {
  same_on_any_threads([&] { return Compression<bfloat16>(2, 4, 512, true).go_on(kernels, {150, 33}); });
}

TEST(compression_refuses_a_slot_that_is_none) {
  for (int32_t slot : {-1, 3}) {
    Compression<float> of(2, 4, 16, true);
    of.slots[1] = slot;
    CHECK(refused([&] { of.go_on(kernels, {4, 4}); }));
    for (size_t i = 0; i < of.state.size(); ++i) CHECK(of.state[i] == 0 || of.state[i] == -INFINITY);
  }
}

}  // namespace deepport::test
