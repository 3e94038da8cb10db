#include "quantize.h"

#include "element.h"
#include "parallel.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

int64_t blocks_of(int64_t n, int64_t block) { return (n + block - 1) / block; }

}  // namespace

void dequantize(const void* data, const void* scale, Format format, void* values, Type type, int64_t matrices, int64_t rows,
                int64_t columns) {
  const int64_t height = format.rows ? format.rows : std::max<int64_t>(rows, 1);
  const int64_t width = format.columns ? format.columns : std::max<int64_t>(columns, 1);
  const int64_t down = blocks_of(rows, height), across = blocks_of(columns, width);
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
          const int64_t block_row = i / rows * down + i % rows / height;
          decode_row(from + i * (columns / packing<E>), factors + block_row * across, width, columns, to + i * columns);
        }
      });
    });
  });
}

}  // namespace deepport::DEEPPORT_LEVEL
