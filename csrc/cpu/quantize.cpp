#include "quantize.h"

#include <atomic>
#include <cfloat>

#include "element.h"
#include "outside.h"
#include "parallel.h"
#include "scratch.h"
#include "simd/small.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

int64_t blocks_of(int64_t n, int64_t block) { return (n + block - 1) / block; }

// A matrix of blocks that share a scale, so many down and across.
struct Grid {
  int64_t rows, columns, height, width, down, across;

  Grid(const Format& format, int64_t r, int64_t c)
      : rows(r), columns(c), height(format.rows ? format.rows : std::max<int64_t>(r, 1)),
        width(format.columns ? format.columns : std::max<int64_t>(c, 1)), down(blocks_of(r, height)), across(blocks_of(c, width)) {}
};

// Magnitudes as bits, which order as the numbers do: infinity behind all that are finite, NaN last.
template <class T>
using Size = std::conditional_t<std::is_same_v<T, bfloat16>, int16_t, int32_t>;
template <class T>
constexpr Size<T> no_sign = std::is_same_v<T, bfloat16> ? 0x7fff : 0x7fffffff;

uint32_t float_bits(int32_t size) { return uint32_t(size); }
uint32_t float_bits(int16_t size) { return uint32_t(size) << 16; }

float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

constexpr uint32_t infinity = 0x7f800000;

template <class E>
constexpr float largest = 127;
template <>
constexpr float largest<e4m3> = 448;
template <>
constexpr float largest<e4m3fnuz> = 240;
template <>
constexpr float largest<e2m1_pair> = 6;

template <class T>
Size<T> size_of(T x) {
  Size<T> bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits & no_sign<T>;
}

// tops[c] = the number of x[:rows, c] whose magnitude is largest, but for its sign.
template <class T>
void column_tops(const T* x, int64_t rows, int64_t stride, int64_t columns, T* tops) {
  std::copy_n(x, columns, tops);
  for (int64_t r = 1; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      const Size<T> most = std::max(size_of(tops[c]), size_of(x[r * stride + c]));
      std::memcpy(tops + c, &most, sizeof most);
    }
}

// The largest magnitude of n numbers.
template <class T>
Size<T> top(const T* x, int64_t n) {
  typedef Size<T> Lanes __attribute__((vector_size(sizeof(Vec))));
  constexpr int64_t lanes = sizeof(Lanes) / sizeof(T);
  Lanes tops{};
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    Lanes sizes;
    std::memcpy(&sizes, x + i, sizeof sizes);
    sizes &= no_sign<T>;
    tops = sizes > tops ? sizes : tops;
  }
  Size<T> most = 0;
  for (int64_t j = 0; j < lanes; ++j) most = std::max<Size<T>>(most, tops[j]);
  for (; i < n; ++i) most = std::max(most, size_of(x[i]));
  return most;
}

// The scale of a block whose largest magnitude has these bits, and the factor that `scaled` wants.
//
// Of a power of two: the largest magnitude is m 2^e and the element's n 2^f, with m and n in [1, 2); the scale is 2^(e - f), or twice
// that where m > n. The factor is its inverse.
template <class E>
float rescale(uint32_t size, e8m0& scale) {
  uint32_t limit;
  std::memcpy(&limit, &largest<E>, sizeof limit);
  const int32_t exponent = int32_t((size + (0x7fffff - (limit & 0x7fffff))) >> 23) - int32_t(limit >> 23);
  scale.bits = size ? uint8_t(std::max(exponent + 127, 0)) : 127;
  return float_of(uint32_t(254 - scale.bits) << 23);
}

template <class E>
float rescale(uint32_t size, float& scale) {
  return scale = size ? std::max(float_of(size) / largest<E>, FLT_MIN) : 1.0f;
}

Vec scaled(Vec x, Vec factor, e8m0) { return x * factor; }
Vec scaled(Vec x, Vec factor, float) { return x / factor; }

// Columns of as many blocks side by side as are read for their scales and then, from the cache, for their elements, while the columns
// behind them are fetched.
constexpr int64_t panel = 1024;

// to[c] = from[c] scaled by factor[c / width]. No number is too large for an element: the largest, over its scale, rounds to at most
// the element's.
template <class E, class S, class T>
void encode_row(const T* from, const float* factor, int64_t width, int64_t columns, E* to) {
  if (width == 1)
    return each(columns, [&](int64_t c, auto access) {
      encode(access, scaled(access.get(from + c), access.get(factor + c), S{}), to + c / packing<E>);
    });
  for (int64_t b = 0, first = 0; first < columns; ++b, first += width) {
    const Vec by = splat(factor[b]);
    each(std::min(width, columns - first), [&](int64_t i, auto access) {
      prefetch(from + first + i + panel);
      encode(access, scaled(access.get(from + first + i), by, S{}), to + (first + i) / packing<E>);
    });
  }
}

// A panel's `rows` x `columns` numbers, rows `stride` apart; false where one is not finite.
template <class E, class S, class T>
bool encode_panel(const T* x, int64_t rows, int64_t stride, int64_t columns, int64_t width, E* data, S* scale) {
  struct Tops;
  struct Factors;
  const T* tops = x;  // of columns, which a row's numbers are themselves
  if (rows > 1) {
    T* const found = Scratch<Tops>::template get<T>(columns);
    column_tops(x, rows, stride, columns, found);
    tops = found;
  }
  float* factors = Scratch<Factors>::template get<float>(blocks_of(columns, width));
  uint32_t most = 0;
  for (int64_t b = 0, first = 0; first < columns; ++b, first += width) {
    const uint32_t size = float_bits(top(tops + first, std::min(width, columns - first)));
    factors[b] = rescale<E>(size, scale[b]);
    most = std::max(most, size);
  }
  for (int64_t r = 0; r < rows; ++r)
    encode_row<E, S>(x + r * stride, factors, width, columns, data + r * stride / packing<E>);
  return most < infinity;
}

// False where a value is not finite.
template <class E, class S, class T>
bool encode_matrices(const T* x, const Grid& grid, int64_t matrices, E* data, S* scale) {
  const int64_t blocks = std::max<int64_t>(1, panel / grid.width), panels = blocks_of(grid.across, blocks);
  const int64_t numbers = std::min(grid.height, grid.rows) * std::min(blocks * grid.width, grid.columns);
  std::atomic<bool> finite{true};
  parallel(matrices * grid.down * panels, 1 + 16384 / (numbers + 1), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t strip = i / panels, block = i % panels * blocks, column = block * grid.width;
      const int64_t row = strip % grid.down * grid.height, from = (strip / grid.down * grid.rows + row) * grid.columns + column;
      const int64_t rows = std::min(grid.height, grid.rows - row);
      const int64_t columns = std::min(blocks * grid.width, grid.columns - column);
      if (!encode_panel<E>(x + from, rows, grid.columns, columns, grid.width, data + from / packing<E>,
                           scale + strip * grid.across + block))
        finite = false;
    }
  });
  return finite;
}

}  // namespace

void dequantize(const void* data, const void* scale, Format format, void* values, Type type, int64_t matrices, int64_t rows,
                int64_t columns) {
  const Grid grid(format, rows, columns);
  with_types(format, [&](auto element, auto scaling) {
    using E = decltype(element);
    using S = decltype(scaling);
    const E* from = static_cast<const E*>(data);
    const S* factors = static_cast<const S*>(scale);
    visit(type, [&](auto zero) {
      using T = decltype(zero);
      T* to = static_cast<T*>(values);
      parallel(matrices * rows, 1 + 16384 / (columns + 1), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t block_row = i / rows * grid.down + i % rows / grid.height;
          decode_row(from + i * (columns / packing<E>), factors + block_row * grid.across, grid.width, columns, to + i * columns);
        }
      });
    });
  });
}

void quantize(const void* values, Type type, void* data, void* scale, Format format, int64_t matrices, int64_t rows,
              int64_t columns) {
  bool finite = true;
  with_types(format, [&](auto element, auto scaling) {
    using E = decltype(element);
    using S = decltype(scaling);
    if constexpr (sizeof(E) == 1)  // others are not quantised
      visit(type, [&](auto zero) {
        using T = decltype(zero);
        finite = encode_matrices(static_cast<const T*>(values), Grid(format, rows, columns), matrices, static_cast<E*>(data),
                                 static_cast<S*>(scale));
      });
  });
  if (!finite) unfit("quantize: a value is not finite; no scale brings it into range");
}

}  // namespace deepport::DEEPPORT_LEVEL
