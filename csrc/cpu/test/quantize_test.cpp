#include "check.h"
#include "quantized.h"

namespace deepport::test {
namespace {

template <class T>
void dequantize_agrees(const Table& kernels, const Format& format, int64_t matrices, int64_t rows, int64_t columns) {
  std::mt19937 g(unsigned(rows + columns));
  const int64_t height = format.rows ? format.rows : rows, width = format.columns ? format.columns : columns;
  const int64_t down = (rows + height - 1) / height, across = (columns + width - 1) / width;
  const Guarded<uint8_t> data = random_bytes(g, matrices * rows * bytes(format.element, columns));
  const Scales scales(g, matrices * down * across);
  Guarded<T> values(size_t(matrices * rows * columns));
  kernels.dequantize(data.data(), scales.data(format), format, values.data(), type_of<T>, matrices, rows, columns);
  for (int64_t i = 0; i < matrices * rows; ++i)
    for (int64_t c = 0; c < columns; ++c) {
      const double factor = scales.at(format, (i / rows * down + i % rows / height) * across + c / width);
      CHECK(is_rounded(values[size_t(i * columns + c)], value(data.data(), format.element, i * columns + c) * factor));
    }
}

}  // namespace

TEST(dequantized_numbers_are_elements_times_scales) {
  for (const Format& format : {Format{Element::int8, false, 1, 0}, {Element::int8, false, 0, 1}, {Element::e4m3, true, 128, 128},
                               {Element::e4m3, false, 32, 32}, {Element::e4m3fnuz, true, 1, 32}, {Element::e2m1, true, 1, 32}})
    for (int64_t rows : {1, 40})
      for (int64_t columns : {2, 64, 130}) {
        dequantize_agrees<float>(kernels, format, 2, rows, columns);
        dequantize_agrees<bfloat16>(kernels, format, 2, rows, columns);
      }
}

}  // namespace deepport::test
