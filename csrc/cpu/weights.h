// Weights as they lie in a checkpoint, in any number format, and their rows as factors of products (`product.h`).
#pragma once

#include "element.h"
#include "pack.h"
#include "product.h"
#include "simd/simd.h"

namespace deepport::DEEPPORT_LEVEL {

// A stack of matrices [rows, columns]; a matrix's scales are [row blocks, column blocks].
struct Weights {
  const void* data;
  const void* scale;
  Format format;
  int64_t rows, columns;

  int64_t row_blocks() const { return blocks(rows, format.rows); }
  int64_t column_blocks() const { return blocks(columns, format.columns); }

  // Of a block that shares a scale; no columns are one block.
  int64_t block_columns() const { return format.columns ? format.columns : std::max<int64_t>(columns, 1); }

  bool scaled() const { return format.element != Element::float32 && format.element != Element::bfloat16; }

  // Where number k of row r of the first matrix lies, as the type that holds it.
  template <class E>
  const E* at(int64_t r, int64_t k) const {
    return static_cast<const E*>(data) + (r * columns + k) / packing<E>;
  }

  // Calls f with the scales of row r of the first matrix, in the type that holds them.
  template <class F>
  void scales(int64_t r, F&& f) const {
    const int64_t first = (format.rows ? r / format.rows : 0) * column_blocks();
    format.power_of_two ? f(static_cast<const e8m0*>(scale) + first) : f(static_cast<const float*>(scale) + first);
  }

  // The stack from matrix e on.
  Weights from(int64_t e) const {
    Weights rest = *this;
    const int64_t scales = e * row_blocks() * column_blocks();
    with_types(format, [&](auto element, auto scaling) {
      rest.data = static_cast<const decltype(element)*>(data) + e * rows * columns / packing<decltype(element)>;
      if (scale) rest.scale = static_cast<const decltype(scaling)*>(scale) + scales;
    });
    return rest;
  }

 private:
  static int64_t blocks(int64_t n, int64_t block) { return block ? (n + block - 1) / block : 1; }
};

// Whether every weight is a bfloat16: it has the exponents of float32, and bits enough for all but a scale's.
inline bool narrow_weights(const Format& format) {
  return format.element == Element::bfloat16 || (format.power_of_two && format.element != Element::float32);
}

namespace {

// to[0:last - first] = element * scale of row r of matrix e. S is the scales' type.
template <class E, class S, class F>
void decode_scaled(const Weights& w, int64_t e, int64_t r, int64_t first, int64_t last, F* to) {
  const E* from = static_cast<const E*>(w.data) + (e * w.rows + r) * w.columns / packing<E>;
  const int64_t across = w.column_blocks(), block = w.block_columns(), down = w.format.rows ? r / w.format.rows : 0;
  const S* scale = static_cast<const S*>(w.scale) + (e * w.row_blocks() + down) * across;
  for (int64_t b = first / block; b * block < last; ++b) {
    const int64_t begin = std::max(b * block, first), end = std::min((b + 1) * block, last);
    if constexpr (fast_pairs)
      if (decode_pairs<4096>(from + begin / packing<E>, scale[b], end - begin, to + begin - first)) continue;
    const Vec factor = splat(widen(scale[b]));
    each(end - begin, [&](int64_t i, auto access) {
      access.put_normal(to + begin - first + i, access.get(from + (begin + i) / packing<E>) * factor);
    });
  }
}

// Scales of one column each.
template <class E, class F>
void decode_by_column(const Weights& w, int64_t e, int64_t r, int64_t first, int64_t last, F* to) {
  const E* from = static_cast<const E*>(w.data) + (e * w.rows + r) * w.columns + first;
  const float* scale = static_cast<const float*>(w.scale) + e * w.columns + first;
  each(last - first, [&](int64_t i, auto access) { access.put_normal(to + i, access.get(from + i) * access.get(scale + i)); });
}

// The columns [first, last) of row r of matrix e as factors, then 0 up to `width`.
template <class F>
void decode(const Weights& w, int64_t e, int64_t r, int64_t first, int64_t last, F* to, int64_t width) {
  std::fill(to + last - first, to + width, F{});
  with_types(w.format, [&](auto element, auto scaling) {
    using E = decltype(element);
    if constexpr (std::is_same_v<E, float> || std::is_same_v<E, bfloat16>)
      copy_row(static_cast<const E*>(w.data) + (e * w.rows + r) * w.columns + first, last - first, to, width);
    else if (std::is_same_v<E, int8_t> && w.format.columns == 1)
      decode_by_column<E>(w, e, r, first, last, to);
    else
      decode_scaled<E, decltype(scaling)>(w, e, r, first, last, to);
  });
}

}  // namespace

// Rows of factors, `stride` apart, that products may read: whole(columns, 32) of each. `ahead`: as many that follow are in memory.
template <class F>
struct Rows {
  const F* first;
  int64_t stride, ahead = 0;
};

// The `count` rows of matrix e from r on, followed by rows of 0 up to `whole_count`. They stay where they are if they can be
// multiplied so; else they are in `room`, of whole_count * whole(columns, 32).
template <class F>
Rows<F> rows(const Weights& w, int64_t e, int64_t r, int64_t count, int64_t whole_count, F* room) {
  const int64_t width = whole(w.columns, 32);
  constexpr Element same = std::is_same_v<F, float> ? Element::float32 : Element::bfloat16;
  if (w.format.element == same && width == w.columns && count == whole_count)
    return {static_cast<const F*>(w.data) + (e * w.rows + r) * w.columns, width, whole_count};
  for (int64_t i = 0; i < count; ++i) decode(w, e, r + i, 0, w.columns, room + i * width, width);
  std::fill(room + count * width, room + whole_count * width, F{});
  return {room, width};
}

}  // namespace deepport::DEEPPORT_LEVEL
