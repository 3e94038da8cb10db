// Weights as factors of products with few rows or with many, whose scales may come after the sums.
#pragma once

#include <cstring>

#include "simd/formats.h"
#include "weights.h"

namespace deepport::DEEPPORT_LEVEL {

// Whether products with bfloat16 can be summed before scales are applied: where values are bfloat16 but for a scale, and a
// scale holds for whole blocks of a row.
inline bool multiplies_pairs(const Weights& w) {
  return w.format.element != Element::float32 && (!w.scaled() || w.block_columns() == w.columns || w.block_columns() % 32 == 0);
}

// Whether the scales of this block of rows and columns are powers of two that its numbers, as bfloat16, can be multiplied by.
inline bool foldable(const Weights& w, int64_t row, int64_t rows, int64_t first, int64_t last) {
  constexpr int least = 16, most = 240;  // far from where a number would be subnormal, or infinite
  if (!w.format.power_of_two) return false;
  const int64_t wide = w.block_columns();
  bool fits = true;
  for (int64_t r = row; r < row + rows; ++r)
    w.scales(r, [&](auto* scales) {
      if constexpr (std::is_same_v<decltype(scales), const e8m0*>)
        for (int64_t j = first / wide; j * wide < last; ++j) fits &= scales[j].bits >= least && scales[j].bits <= most;
    });
  return fits;
}

namespace {

// The columns [first, last) of a row as bfloat16 without their scales, then 0 up to `width`.
template <class E>
void copy_values(const E* from, int64_t count, bfloat16* to, int64_t width) {
  int64_t i = 0;
  for (; i + Pairs::lanes <= count; i += Pairs::lanes) store_pairs(to + i, load_pairs(from + i / packing<E>));
  if (i < count) {
    bfloat16 rest[Pairs::lanes];
    store_pairs(rest, load_pairs_part(from + i / packing<E>, count - i));
    std::copy_n(rest, count - i, to + i);
  }
  std::fill(to + count, to + width, bfloat16{});
}

// The same of a row of weights.
inline void unscaled(const Weights& w, int64_t r, int64_t first, int64_t last, bfloat16* to, int64_t width) {
  with_types(w.format, [&](auto element, auto) {
    using E = decltype(element);
    if constexpr (!std::is_same_v<E, float>) copy_values(w.at<E>(r, first), last - first, to, width);
  });
}

}  // namespace
}  // namespace deepport::DEEPPORT_LEVEL
