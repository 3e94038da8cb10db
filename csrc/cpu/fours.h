// MXFP4 by few columns: numbers of four bits become factors in registers, which takes no longer than to read them.
//
// Of 128 numbers the first of every four are looked up together, then the second, and so on; columns are spread likewise.
#pragma once

#include "columns.h"

namespace deepport::DEEPPORT_LEVEL {

#if defined(__AVX512BF16__)
constexpr bool has_fours = true;
#else
constexpr bool has_fours = false;
#endif

constexpr int64_t spread_block = 128;

// Rows of k numbers, a multiple of spread_block, each with k / 32 scales.
struct Fours {
  const e2m1_pair* first;
  const e8m0* scale;
  int64_t k;
};

// Whether w's rows by this many columns are multiplied so.
template <class F>
bool in_fours(const Weights& w, int64_t count) {
  return has_fours && std::is_same_v<F, bfloat16> && w.format.element == Element::e2m1 && w.format.power_of_two && count <= few &&
         w.columns % spread_block == 0;
}

inline Fours fours(const Weights& w, int64_t e, int64_t r) {
  const int64_t row = e * w.rows + r;
  return {static_cast<const e2m1_pair*>(w.data) + row * w.columns / 2, static_cast<const e8m0*>(w.scale) + row * w.columns / 32,
          w.columns};
}

namespace {

// The same columns in the order of Fours' factors; `room` is for as many.
template <class F>
Columns<F> spread(const Columns<F>& x, F* room) {
  for (int64_t at = 0; at < x.count * x.k; at += spread_block)
    for (int64_t i = 0; i < spread_block / 4; ++i)
      for (int64_t j = 0; j < 4; ++j) room[at + j * spread_block / 4 + i] = x.data[at + 4 * i + j];
  return {room, x.count, x.k};
}

}  // namespace

#if defined(__AVX512BF16__)

template <int M>
void row_sums(const Fours& all, int64_t first_row, const Columns<bfloat16>& columns, Vec (&y)[M]) {
  constexpr int lanes = Vec::lanes, R = M == 1 ? 4 : 2;
  const int64_t k = all.k;
  Vec whole_sums[M][lanes];
  for (int first = 0; first < lanes; first += R) {
    const e2m1_pair* w = all.first + (first_row + first) * k / 2;
    const e8m0* scale = all.scale + (first_row + first) * k / 32;
    Vec part[R][M];
    for (auto& row : part)
      for (Vec& s : row) s = zero();
    for (int64_t i = 0; i < k; i += spread_block)
      for (int r = 0; r < R; ++r) {
        Pairs factors[4];
        prefetch(w + (R + r) * k / 2 + i / 2);  // of the rows that come next
        load_spread(w + r * k / 2 + i / 2, factors);
        const Vec power = load_spread(scale + r * k / 32 + i / 32);
        for (int m = 0; m < M; ++m) {
          Vec sum = zero();
          for (int j = 0; j < 4; ++j)
            sum = dot(factors[j], load_pairs(columns.data + m * k + i + j * spread_block / 4), sum);
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
