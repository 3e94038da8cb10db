// Ragged batches for tests.
#pragma once

#include <cstdint>
#include <vector>

#include "guarded.h"

namespace deepport::test {

// Sequences of so many new tokens each, that go on at positions `first`, and rows of padding behind them.
struct Batch {
  std::vector<int64_t> lengths, first;
  int64_t tokens;
  Guarded<int64_t> positions;
  Guarded<int32_t> cu_seqlens;

  Batch(std::vector<int64_t> of, std::vector<int64_t> from, int64_t padding = 0)
      : lengths(std::move(of)), first(std::move(from)), tokens(total(lengths) + padding), positions(size_t(tokens)),
        cu_seqlens(lengths.size() + 1) {
    size_t t = 0;
    for (size_t b = 0; b < lengths.size(); ++b) {
      for (int64_t i = 0; i < lengths[b]; ++i) positions[t++] = first[b] + i;
      cu_seqlens[b + 1] = int32_t(t);
    }
    while (t < size_t(tokens)) positions[t++] = INT64_MIN;  // of padding: nobody may use it
  }

  int64_t sequences() const { return int64_t(lengths.size()); }

 private:
  static int64_t total(const std::vector<int64_t>& of) {
    int64_t sum = 0;
    for (int64_t n : of) sum += n;
    return sum;
  }
};

}  // namespace deepport::test
