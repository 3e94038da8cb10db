// Small products: c[m, n] = sum_k a[m, k] b[k, n] in float32, of a's rows as they lie and of b in panels.
//
// A word is 32 bits of numbers that follow each other in k: a float, or a pair of bfloat16. A panel is 16 columns of b: of each word
// of k, 16 columns' words. Sizes are whole: m a multiple of 16, n of `column_unit`, k of 32; what pads them is 0.
// A product is stored in c, or added to what is there.
#pragma once

#include <algorithm>
#include <type_traits>

#include "simd/simd.h"

namespace deepport::DEEPPORT_LEVEL {

constexpr int64_t panel_columns = 16;

// Columns of a panel that are multiplied, or left out, together.
constexpr int64_t column_unit = Vec::lanes == 8 ? 8 : panel_columns;

inline int64_t whole(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// What T is multiplied as at this level.
template <class T>
using Factor = std::conditional_t<std::is_same_v<T, bfloat16> && fast_pairs, bfloat16, float>;

// Numbers in a word.
template <class F>
constexpr int64_t word = int64_t(sizeof(float) / sizeof(F));

enum class Sum { stored, added };

namespace {

// A word in every lane, and as many words as there are lanes.
inline Vec splat_word(const float* p) { return splat(*p); }
inline Pairs splat_word(const bfloat16* p) { return splat_pair(p); }
inline Vec load_words(const float* p) { return load(p); }
inline Pairs load_words(const bfloat16* p) { return load_pairs(p); }

inline Vec add_product(Vec a, Vec b, Vec c) { return fma(a, b, c); }
inline Vec add_product(Pairs a, Pairs b, Vec c) { return dot(a, b, c); }

// R rows of a by V vectors of a panel, or of several that are `panel` apart.
template <Sum sum, int R, int V, class F>
void rows_by_vectors(const F* a, int64_t lda, const F* b, int64_t panel, int64_t k, float* c, int64_t ldc) {
  constexpr int64_t across = panel_columns / Vec::lanes;
  Vec sums[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sums[r][v] = sum == Sum::added ? load(c + r * ldc + v * Vec::lanes) : zero();
  for (int64_t i = 0; i < k; i += word<F>) {
    decltype(load_words(b)) right[V];
    for (int v = 0; v < V; ++v)
      right[v] = load_words(b + v / across * panel + i * panel_columns + v % across * Vec::lanes * word<F>);
    for (int r = 0; r < R; ++r) {
      const auto left = splat_word(a + r * lda + i);
      for (int v = 0; v < V; ++v) sums[r][v] = add_product(left, right[v], sums[r][v]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store(c + r * ldc + v * Vec::lanes, sums[r][v]);
}

template <Sum sum, int R, int V, class F>
void by_vectors(const F* a, int64_t lda, int64_t m, const F* b, int64_t panel, int64_t k, float* c, int64_t ldc) {
  int64_t i = 0;
  for (; i + R <= m; i += R) rows_by_vectors<sum, R, V>(a + i * lda, lda, b, panel, k, c + i * ldc, ldc);
  for (; i < m; i += 2) rows_by_vectors<sum, 2, V>(a + i * lda, lda, b, panel, k, c + i * ldc, ldc);  // 2 or 4 are left of 6
}

#if defined(__AMX_BF16__)

template <Sum sum, int tile>
void begin_tile(const float* c, int64_t ldc) {
  if constexpr (sum == Sum::added)
    tile_load<tile>(c, ldc * 4);
  else
    tile_zero<tile>();
}

// M by N tiles of c: four, where the rows and columns suffice. `ahead`: rows of a from here on are brought nearer meanwhile; 0
// for none. Tiles are rows far apart, which processors do not fetch ahead by themselves.
template <Sum sum, int M, int N>
void tile_product(const bfloat16* a, int64_t lda, const bfloat16* b, int64_t panel, int64_t k, float* c, int64_t ldc,
                  int64_t ahead) {
  const int64_t row = lda * 2;
  begin_tile<sum, 0>(c, ldc);
  if (N == 2) begin_tile<sum, 1>(c + 16, ldc);
  if (M == 2) begin_tile<sum, 2>(c + 16 * ldc, ldc);
  if (M == 2 && N == 2) begin_tile<sum, 3>(c + 16 * ldc + 16, ldc);
  for (int64_t i = 0; i < k; i += 32) {
    const bfloat16* right = b + i * panel_columns;
    for (int64_t r = 0; r < ahead; ++r) prefetch(a + (16 * M + r) * lda + i);
    tile_load<6>(right, 64);
    tile_load<4>(a + i, row);
    tile_dot<0, 4, 6>();
    if (N == 2) tile_load<7>(right + panel, 64), tile_dot<1, 4, 7>();
    if (M == 2) tile_load<5>(a + 16 * lda + i, row), tile_dot<2, 5, 6>();
    if (M == 2 && N == 2) tile_dot<3, 5, 7>();
  }
  tile_store<0>(c, ldc * 4);
  if (N == 2) tile_store<1>(c + 16, ldc * 4);
  if (M == 2) tile_store<2>(c + 16 * ldc, ldc * 4);
  if (M == 2 && N == 2) tile_store<3>(c + 16 * ldc + 16, ldc * 4);
}

template <Sum sum, int N>
void by_tiles(const bfloat16* a, int64_t lda, int64_t m, const bfloat16* b, int64_t panel, int64_t k, float* c, int64_t ldc,
              int64_t ahead) {
  int64_t i = 0;
  for (; i + 32 <= m; i += 32) tile_product<sum, 2, N>(a + i * lda, lda, b, panel, k, c + i * ldc, ldc, ahead);
  if (i < m) tile_product<sum, 1, N>(a + i * lda, lda, b, panel, k, c + i * ldc, ldc, 0);
}

#endif

template <Sum sum, int panels, class F>
void panels_product(const F* a, int64_t lda, int64_t m, const F* b, int64_t panel, int64_t k, float* c, int64_t ldc,
                    [[maybe_unused]] int64_t ahead) {
#if defined(__AMX_BF16__)
  if constexpr (std::is_same_v<F, bfloat16>) return by_tiles<sum, panels>(a, lda, m, b, panel, k, c, ldc, ahead);
#endif
  constexpr int R = Vec::lanes == 16 ? 16 / panels : Vec::lanes == 8 ? 6 : 2;  // rows whose sums, and more, fit the registers
  if constexpr (Vec::lanes == 16) {
    by_vectors<sum, R, panels>(a, lda, m, b, panel, k, c, ldc);
  } else {  // narrow vectors: a panel fills the registers
    constexpr int V = int(panel_columns) / Vec::lanes;
    for (int p = 0; p < panels; ++p) by_vectors<sum, R, V>(a, lda, m, b + p * panel, panel, k, c + p * 16, ldc);
  }
}

}  // namespace

// b has n / 16 panels, `panel` numbers apart. At level amx a thread has `Tiles`. `ahead`: as many rows behind each 32 of a are
// likely to be read next, and not to be in a cache.
template <Sum sum = Sum::stored, class F>
void product(const F* a, int64_t lda, int64_t m, const F* b, int64_t panel, int64_t n, int64_t k, float* c, int64_t ldc,
             int64_t ahead = 0) {
  int64_t j = 0;
  for (; j + 32 <= n; j += 32, ahead = 0) panels_product<sum, 2>(a, lda, m, b + j / 16 * panel, panel, k, c + j, ldc, ahead);
  if (j + 16 <= n) panels_product<sum, 1>(a, lda, m, b + j / 16 * panel, panel, k, c + j, ldc, ahead), j += 16;
  if constexpr (column_unit < panel_columns)
    if (j < n) by_vectors<sum, 8, 1>(a, lda, m, b + j / 16 * panel, panel, k, c + j, ldc);
}

// The same, of panels that follow each other.
template <class F>
void product(const F* a, int64_t lda, int64_t m, const F* b, int64_t n, int64_t k, float* c, int64_t ldc, int64_t ahead = 0) {
  product(a, lda, m, b, k * panel_columns, n, k, c, ldc, ahead);
}

}  // namespace deepport::DEEPPORT_LEVEL
