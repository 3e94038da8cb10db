// Weights by the tokens that need them: the rows of w are read once, whether there is one token or a thousand.
//
// Few tokens lie in rows, and a product is a sum over the lanes of a vector; of many, 16 share a panel (`product.h`).
#pragma once

#include "pack.h"
#include "product.h"
#include "simd/math.h"
#include "weights.h"

namespace deepport::DEEPPORT_LEVEL {

// Columns that are multiplied at a time by sums over lanes.
constexpr int64_t few = 4;

// Columns up to which these are no slower than panels of 16 (measured), whose columns are seldom all there.
constexpr int64_t most_in_rows = Vec::lanes == 8 ? 8 : few;

// Rows of weights that are multiplied at a time.
constexpr int64_t row_block = 32;

// `count` columns of k factors each, k a multiple of 32: in rows, or in panels.
template <class F>
struct Columns {
  F* data;
  int64_t count, k;
  bool in_rows;

  // Columns that there is room for, however they lie.
  static int64_t across(int64_t count) { return count <= few ? count : whole(count, panel_columns); }

  // `few` columns in rows from m on, or what is left.
  Columns from(int64_t m) const { return {data + m * k, std::min(few, count - m), k, true}; }
};

namespace {

// A multiple of this many columns is multiplied at a time.
constexpr int64_t column_block = 256;

inline Vec add_products(const float* a, const float* b, Vec c) { return fma(load(a), load(b), c); }
inline Vec add_products(const bfloat16* a, const bfloat16* b, Vec c) { return dot(load_pairs(a), load_pairs(b), c); }

// Products of the rows r .. r + lanes of w with M columns in rows: y[m] has a lane for each row of w.
template <int M, class F>
void row_sums(const Rows<F>& all, int64_t r0, const Columns<F>& columns, Vec (&y)[M]) {
  constexpr int lanes = Vec::lanes, R = lanes == 16 ? 4 : 2;  // as many sums at a time as there are registers for
  const int64_t stride = all.stride, k = columns.k;
  const F *w = all.first + r0 * stride, *x = columns.data;
  Vec whole_sums[M][lanes];
  for (int first = 0; first < lanes; first += R) {
    Vec part[R][M];
    for (auto& row : part)
      for (Vec& s : row) s = zero();
    for (int64_t i = 0; i < k; i += lanes * word<F>)
      for (int r = 0; r < R; ++r) {
        const F* row = w + (first + r) * stride + i;
        prefetch(row + R * stride);
        for (int m = 0; m < M; ++m) part[r][m] = add_products(row, x + m * k + i, part[r][m]);
      }
    for (int r = 0; r < R; ++r)
      for (int m = 0; m < M; ++m) whole_sums[m][first + r] = part[r][m];
  }
  for (int m = 0; m < M; ++m) y[m] = sums(whole_sums[m]);
}

// f(count, some, first) for `few` columns at a time, which begin at `first`; their number is a type.
template <class F, class Take>
void by_few(const Columns<F>& x, Take&& f) {
  for (int64_t first = 0; first < x.count; first += few) {
    const Columns<F> some = x.from(first);
    switch (some.count) {
      case 1: f(std::integral_constant<int, 1>{}, some, first); break;
      case 2: f(std::integral_constant<int, 2>{}, some, first); break;
      case 3: f(std::integral_constant<int, 3>{}, some, first); break;
      default: f(std::integral_constant<int, 4>{}, some, first);
    }
  }
}

// f(m, r, y) for every column m and every `lanes` rows r of c [row_block, n], which has a row for each of w's.
template <class Take>
void turn(const float* c, int64_t n, int64_t count, Take&& f) {
  for (int64_t r = 0; r < row_block; r += Vec::lanes)
    for (int64_t m = 0; m < count; m += Vec::lanes) {
      Vec block[Vec::lanes];
      for (int i = 0; i < Vec::lanes; ++i) block[i] = load(c + (r + i) * n + m);
      transpose(block);
      for (int i = 0; i < Vec::lanes && m + i < count; ++i) f(m + i, r, block[i]);
    }
}

}  // namespace

// The rows that row(0), row(1), ... point to, as columns; `room` is for across(count) * whole(k, 32).
template <class F, class Row>
Columns<F> gather(Row&& row, int64_t count, int64_t k, bool in_rows, F* room) {
  const Columns<F> found{room, count, whole(k, 32), in_rows};
  if (in_rows)
    for (int64_t i = 0; i < count; ++i) copy_row(row(i), k, room + i * found.k, found.k);
  else
    pack_columns(row, count, k, room);
  return found;
}

// f(m, r, y) for every column m and every `lanes` of row_block rows of w, from r on: y holds their products with the column.
template <class W, class F, class Take>
void multiply_few(const W& w, const Columns<F>& x, Take&& f) {
  by_few(x, [&](auto count, const Columns<F>& some, int64_t first) {
    Vec y[count];
    for (int64_t r = 0; r < row_block; r += Vec::lanes) {
      row_sums(w, r, some, y);
      for (int m = 0; m < count; ++m) f(first + m, r, y[m]);
    }
  });
}

// The same of any number of columns. `room` is for row_block * column_block.
template <class F, class Take>
void multiply(const Rows<F>& w, const Columns<F>& x, float* room, Take&& f) {
  if (x.in_rows) return multiply_few(w, x, f);
  for (int64_t j = 0; j < x.count; j += column_block) {
    const int64_t count = std::min(column_block, x.count - j), n = whole(count, column_unit);
    product(w.first, w.stride, row_block, x.data + j * x.k, n, x.k, room, n, j ? 0 : w.ahead);
    turn(room, n, count, [&](int64_t m, int64_t r, Vec y) { f(j + m, r, y); });
  }
}

// h[at + r] = swiglu(gate[r] . x, up[r] . x) for row_block rows r: columns of h, as many as x has.
template <class W, class F>
void multiply_gated_few(const W& gate, const W& up, const Columns<F>& x, float limit, const Columns<F>& h, int64_t at) {
  by_few(x, [&](auto count, const Columns<F>& some, int64_t first) {
    Vec g[count], u[count];
    for (int64_t r = 0; r < row_block; r += Vec::lanes) {
      row_sums(gate, r, some, g);
      row_sums(up, r, some, u);
      for (int m = 0; m < count; ++m) store_normal(h.data + (first + m) * h.k + at + r, swiglu(g[m], u[m], splat(limit)));
    }
  });
}

// The same of any number of columns. `room` is for twice what multiply needs.
template <class F>
void multiply_gated(const Rows<F>& gate, const Rows<F>& up, const Columns<F>& x, float limit, const Columns<F>& h, int64_t at,
                    float* room) {
  if (x.in_rows) return multiply_gated_few(gate, up, x, limit, h, at);
  const Vec bound = splat(limit);
  for (int64_t j = 0; j < x.count; j += column_block) {
    const int64_t n = whole(std::min(column_block, x.count - j), column_unit);
    float *g = room, *u = room + row_block * column_block;
    product(gate.first, gate.stride, row_block, x.data + j * x.k, n, x.k, g, n, j ? 0 : gate.ahead);
    product(up.first, up.stride, row_block, x.data + j * x.k, n, x.k, u, n, j ? 0 : up.ahead);
    const auto activated = [&](int64_t r, int64_t m) { return swiglu(load(g + r * n + m), load(u + r * n + m), bound); };
    for (int64_t m = 0; m < n; m += Vec::lanes) {
      F* panel = h.data + (j + m) / panel_columns * panel_columns * h.k + m % panel_columns * word<F>;
      for (int64_t r = 0; r < row_block; r += word<F>) {
        F* to = panel + (at + r) * panel_columns;
        if constexpr (word<F> == 2)
          store_pairs(to, activated(r, m), activated(r + 1, m));
        else
          store(to, activated(r, m));
      }
    }
  }
}

}  // namespace deepport::DEEPPORT_LEVEL
