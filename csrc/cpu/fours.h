// MXFP4 by few columns: numbers of four bits become factors in registers, which takes about as long as to read them.
//
// Of a block's numbers some that lie apart are looked up together, then their neighbours, and so on; columns are spread likewise.
#pragma once

#include "columns.h"
#include "dots.h"

namespace deepport::DEEPPORT_LEVEL {

#if defined(DEEPPORT_FOURS)
constexpr bool has_fours = true;
#else
constexpr bool has_fours = false;
#endif

// What the factors are: pairs where these are fast, of 128 numbers at a time, or floats of 64.
using Four = Factor<bfloat16>;
constexpr int64_t spread_parts = fast_pairs ? 4 : 8;
constexpr int64_t spread_lanes = Vec::lanes * word<Four>;
constexpr int64_t spread_block = spread_parts * spread_lanes;

// Of a block's numbers, that which is number i of the part's factors.
constexpr int64_t spread_from(int64_t part, int64_t i) {
  return fast_pairs ? 4 * i + part : i / 4 * 32 + part / 4 * 16 + i % 4 * 4 + part % 4;
}

// Rows of k numbers, a multiple of spread_block, each with k / 32 scales.
struct Fours {
  const e2m1_pair* first;
  const e8m0* scale;
  int64_t k;
};

// Whether w's rows by columns of F that lie in rows are multiplied so.
template <class F>
bool in_fours(const Weights& w) {
  return has_fours && std::is_same_v<F, Four> && w.format.element == Element::e2m1 && w.format.power_of_two &&
         w.columns % spread_block == 0;
}

inline Fours fours(const Weights& w, int64_t e, int64_t r) {
  const int64_t row = e * w.rows + r;
  return {static_cast<const e2m1_pair*>(w.data) + row * w.columns / 2, static_cast<const e8m0*>(w.scale) + row * w.columns / 32,
          w.columns};
}

namespace {

// Columns of k numbers each in the order of Fours' factors; `room` is for as many.
template <class T>
Columns<Four> spread(const T* x, int64_t count, int64_t k, Four* room) {
  for (int64_t at = 0; at < count * k; at += spread_block)
    for (int64_t part = 0; part < spread_parts; ++part)
      for (int64_t i = 0; i < spread_lanes; ++i) {
        const T from = x[at + spread_from(part, i)];
        Four& to = room[at + part * spread_lanes + i];
        if constexpr (std::is_same_v<T, Four>)
          to = from;
        else
          to = widen(from);
      }
  return {room, count, k, true};
}

}  // namespace

#if defined(DEEPPORT_FOURS)

template <int M>
void row_sums(const Fours& all, int64_t first_row, const Columns<Four>& columns, Vec (&y)[M]) {
  using L = Lane<Four, Four>;
  constexpr int lanes = Vec::lanes, R = M == 1 ? 4 : 2;
  const int64_t k = all.k, bytes = k / 2, scales = k / 32;  // of a row
  Vec whole_sums[M][lanes];
  for (int first = 0; first < lanes; first += R) {
    const e2m1_pair* w = all.first + (first_row + first) * bytes;
    const e8m0* scale = all.scale + (first_row + first) * scales;
    Vec part[R][M];
    for (auto& row : part)
      for (Vec& s : row) s = zero();
    for (int64_t b = 0; b < k / spread_block; ++b)
      for (int r = 0; r < R; ++r) {
        const e2m1_pair* from = w + r * bytes + b * (spread_block / 2);
        const Four* x = columns.data + b * spread_block;
        std::conditional_t<fast_pairs, Pairs, Vec> factors[spread_parts];
        prefetch(from + R * bytes);  // of the rows that come next
        load_spread(from, factors);
        const Vec power = load_spread(scale + r * scales + b * (spread_block / 32));
        for (int m = 0; m < M; ++m) {
          Vec sum = zero();
          for (int j = 0; j < spread_parts; ++j) sum = L::add(factors[j], L::get(x + m * k + j * spread_lanes), sum);
          part[r][m] = fma(sum, power, part[r][m]);
        }
      }
    for (int r = 0; r < R; ++r)
      for (int m = 0; m < M; ++m) whole_sums[m][first + r] = part[r][m];
  }
  for (int m = 0; m < M; ++m) y[m] = sums(whole_sums[m]);
}

#endif

}  // namespace deepport::DEEPPORT_LEVEL
