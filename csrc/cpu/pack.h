// Factors of small products (`product.h`) from matrices as they lie.
#pragma once

#include <cstring>

#include "product.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

// Row of a matrix as factors: to[0:width], 0 from k on.
template <class T, class F>
void copy_row(const T* from, int64_t k, F* to, int64_t width) {
  if constexpr (std::is_same_v<T, F>)
    std::memcpy(to, from, size_t(k) * sizeof(T));
  else
    each(k, [&](int64_t i, auto access) { access.put(to + i, access.get(from + i)); });
  std::memset(to + k, 0, size_t(width - k) * sizeof(F));
}

// The words [w, w + lanes) of a row of k numbers; 0 behind its end.
template <class F, class T>
Vec words(const T* row, int64_t w, int64_t k) {
  const int64_t i = w * word<F>, left = std::clamp<int64_t>(k - i, 0, Vec::lanes * word<F>);
  if constexpr (!std::is_same_v<T, F>) {
    return left < Vec::lanes ? load_part(row + i, left) : load(row + i);
  } else {
    if (left == Vec::lanes * word<F>) return load(reinterpret_cast<const float*>(row + i));
    F part[Vec::lanes * word<F>] = {};
    std::memcpy(part, row + i, size_t(left) * sizeof(F));
    return load(reinterpret_cast<const float*>(part));
  }
}

// b = x^T in panels, of n rows of k numbers: row(i) is where row i lies.
template <class F, class Row>
void pack_columns(Row&& row, int64_t n, int64_t k, F* panels) {
  const int64_t columns = whole(n, panel_columns), count = whole(k, 32) / word<F>;
  for (int64_t column = 0; column < columns; column += Vec::lanes) {
    float* panel = reinterpret_cast<float*>(panels) + column / panel_columns * count * panel_columns + column % panel_columns;
    for (int64_t w = 0; w < count; w += Vec::lanes) {
      Vec block[Vec::lanes];
      for (int i = 0; i < Vec::lanes; ++i) block[i] = column + i < n ? words<F>(row(column + i), w, k) : zero();
      transpose(block);
      for (int i = 0; i < Vec::lanes; ++i) store(panel + (w + i) * panel_columns, block[i]);
    }
  }
}

// b = x^T in panels, of x [n, k].
template <class T, class F>
void pack_transposed(const T* x, int64_t n, int64_t k, F* panels) {
  pack_columns([&](int64_t i) { return x + i * k; }, n, k, panels);
}

// 32 columns of b in panels, of b's k rows, from `column` on.
inline void pack_values(const float* const* rows, int64_t k, int64_t column, float* panels) {
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j < 32; j += Vec::lanes)
      store(panels + (j / panel_columns * k + i) * panel_columns + j % panel_columns, load(rows[i] + column + j));
}

inline void pack_values(const bfloat16* const* rows, int64_t k, int64_t column, bfloat16* panels) {
  for (int64_t i = 0; i < k; i += 2)
    for (int64_t j = 0; j < 32; j += Pairs::lanes) {
      const auto place = [&](int64_t c) { return panels + (c / panel_columns * k + i) * panel_columns + c % panel_columns * 2; };
      Pairs low, high;
      interleave(load_pairs(rows[i] + column + j), load_pairs(rows[i + 1] + column + j), low, high);
      store_pairs(place(j), low);
      store_pairs(place(j + Vec::lanes), high);
    }
}

}  // namespace
}  // namespace deepport::DEEPPORT_LEVEL
