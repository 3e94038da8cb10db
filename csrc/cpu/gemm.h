// Products of weights with many rows of activations, which are packed into panels (`pack.h`) first.
#pragma once

#include "expand.h"
#include "pack.h"
#include "scratch.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

// Weights that are expanded and used together: with their sums they fit the second cache, and by few tokens the first. Columns by
// 32 rows and by 32 tokens share the first.
struct Sizes {
  int64_t rows, columns;
};

constexpr int64_t gemm_tokens = 512;
constexpr int64_t rows_together = 32;  // of weights, by one thread: whole tiles
constexpr int64_t once = 32;           // tokens: fewer meet each weight once, so it is best left where it lies

template <class F>
Sizes sizes(int64_t tokens) {
  return tokens <= once ? Sizes{rows_together, 256} : Sizes{256 * word<F>, 256};
}

// Asks for the columns [first, last) of a row: short pieces of rows are nothing that processors fetch ahead by themselves.
inline void ask_for(const Weights& w, int64_t row, int64_t first, int64_t last) {
  visit(w.format.element, [&](auto element) {
    using E = decltype(element);
    prefetch(w.at<E>(row, first), (last - first) / packing<E> * int64_t(sizeof(E)));
  });
}

// Rows of weights as factors, padded to whole tiles: `rows` from `row` on, columns [first, last). Those that come next are asked for.
template <class F>
const F* expanded(const Weights& w, int64_t row, int64_t rows, int64_t first, int64_t last, bool scaled) {
  const int64_t width = whole(last - first, 32), tall = whole(rows, 16);
  const bool more = last < w.columns;
  F* values = Scratch<struct Expanded>::template get<F>(tall * width);
  for (int64_t i = 0; i < rows; ++i) {
    more ? ask_for(w, row + i, last, std::min(2 * last - first, w.columns)) : ask_for(w, row + rows + i, 0, last - first);
    if constexpr (std::is_same_v<F, bfloat16>)
      if (!scaled) {
        unscaled(w, row + i, first, last, values + i * width, width);
        continue;
      }
    decode(w, 0, row + i, first, last, values + i * width, width);
  }
  std::memset(values + rows * width, 0, size_t((tall - rows) * width) * sizeof(F));
  return values;
}

// c [rows, ldc] += scale[row] part.
inline void add_scaled(const Weights& w, int64_t row, int64_t rows, int64_t block, const float* part, float* c, int64_t ldc) {
  for (int64_t i = 0; i < rows; ++i)
    w.scales(row + i, [&](auto* scales) {
      const Vec scale = splat(widen(scales[block]));
      for (int64_t j = i * ldc; j < (i + 1) * ldc; j += Vec::lanes) store(c + j, fma(load(part + j), scale, load(c + j)));
    });
}

// Whether weights of the columns [first, last) are multiplied as they come: the scales are in them, or there are none.
template <class F>
bool exact(const Weights& w, int64_t row, int64_t rows, int64_t first, int64_t last) {
  return std::is_same_v<F, float> || !w.scaled() || foldable(w, row, rows, first, last);
}

// c [rows, tokens] += the products of the columns [first, last), of which `panels` holds all.
template <class F>
void add_columns(const Weights& w, int64_t row, int64_t rows, int64_t first, int64_t last, const F* panels, int64_t tokens,
                 float* c) {
  const int64_t tall = whole(rows, 16), panel = whole(w.columns, 32) * panel_columns, block = w.block_columns();
  if (exact<F>(w, row, rows, first, last)) {
    const int64_t width = whole(last - first, 32);
    const F* values = expanded<F>(w, row, rows, first, last, w.scaled());
    return product<Sum::added>(values, width, tall, panels + first * panel_columns, panel, tokens, width, c, tokens);
  }
  float* part = Scratch<struct Part>::template get<float>(tall * tokens);
  for (int64_t end; first < last; first = end) {
    end = std::min(last, (first / block + 1) * block);
    const int64_t width = whole(end - first, 32);
    const F* values = expanded<F>(w, row, rows, first, end, false);
    product(values, width, tall, panels + first * panel_columns, panel, tokens, width, part, tokens);
    add_scaled(w, row, rows, first / block, part, c, tokens);
  }
}

// c [rows, tokens] of a block of weights and panels of all columns; rows and tokens are padded. What is computed for
// `rows_together` rows depends on them alone, whatever else is in the block.
template <class F>
void block_sums(const Weights& w, int64_t row, int64_t rows, const F* panels, int64_t tokens, float* c) {
  const int64_t panel = whole(w.columns, 32) * panel_columns;
  const bool lies = w.format.element == (std::is_same_v<F, float> ? Element::float32 : Element::bfloat16);
  std::memset(c, 0, size_t(whole(rows, 16) * tokens) * sizeof(float));
  int64_t first = 0;
  if (lies && tokens <= once && rows % 16 == 0 && w.columns >= 32) {
    first = w.columns / 32 * 32;
    product<Sum::added>(w.at<F>(row, 0), w.columns, rows, panels, panel, tokens, first, c, tokens);
  }
  for (int64_t last; first < w.columns; first = last) {
    last = std::min(first + sizes<F>(tokens).columns, w.columns);
    const int64_t step = exact<F>(w, row, rows, first, last) ? rows : rows_together;
    for (int64_t r = 0; r < rows; r += step)
      add_columns(w, row + r, std::min(step, rows - r), first, last, panels, tokens, c + r * tokens);
  }
}

// Hands on sums c [rows, ldc] of `tokens` tokens, turned: a token's sums follow each other.
template <class Put>
void hand_on(const float* c, int64_t ldc, int64_t row, int64_t rows, int64_t token, int64_t tokens, Put&& put) {
  for (int64_t j = 0; j < tokens; j += Vec::lanes)
    for (int64_t i = 0; i < rows; i += Vec::lanes) {
      Vec block[Vec::lanes];
      for (int64_t r = 0; r < Vec::lanes; ++r) block[r] = load(c + (i + r) * ldc + j);
      transpose(block);
      for (int64_t t = 0; t < std::min<int64_t>(Vec::lanes, tokens - j); ++t) {
        float sums[Vec::lanes];
        store(sums, block[t]);
        put(token + j + t, row + i, sums, std::min<int64_t>(Vec::lanes, rows - i));
      }
    }
}

}  // namespace

// `put(t, n, sums, count)` with sums[i] = sum_k w[n + i, k] x[t, k] for the rows [begin, end) of w and every row t of x [tokens,
// columns], which lies in panels. They are bfloat16 where `multiplies_pairs` and the level is fast at it, or else float.
template <class F, class Put>
void by_panels(const Weights& w, int64_t begin, int64_t end, const F* panels, int64_t tokens, Put&& put) {
  [[maybe_unused]] const Tiles tiles;
  for (int64_t token = 0; token < tokens; token += gemm_tokens) {
    const int64_t some = std::min(gemm_tokens, tokens - token), tall = sizes<F>(some).rows;
    for (int64_t row = begin; row < end; row += tall) {
      const int64_t rows = std::min(tall, end - row);
      const int64_t padded = whole(some, column_unit);
      float* c = Scratch<struct BlockSums>::template get<float>(whole(rows, 16) * padded);
      block_sums(w, row, rows, panels + token * whole(w.columns, 32), padded, c);
      hand_on(c, padded, row, rows, token, some, put);
    }
  }
}

}  // namespace deepport::DEEPPORT_LEVEL
