#include "check.h"

namespace deepport::test {
namespace {

template <class T>
void agrees(const Table& kernels, int64_t rows, int64_t width, bool weighted) {
  std::mt19937 generator(unsigned(rows * 1000 + width));
  const Guarded<T> x = normal<T>(generator, size_t(rows * width));
  const Guarded<float> weight = normal<float>(generator, size_t(width));
  Guarded<T> y(size_t(rows * width));
  kernels.rms_norm(x.data(), weighted ? weight.data() : nullptr, y.data(), type_of<T>, rows, width, 1e-6f);
  for (int64_t r = 0; r < rows; ++r) {
    double squares = 0;
    for (int64_t c = 0; c < width; ++c) squares += std::pow(double(host::widen(x[size_t(r * width + c)])), 2);
    const double factor = 1 / std::sqrt(squares / double(width) + 1e-6);
    for (int64_t c = 0; c < width; ++c) {
      const size_t i = size_t(r * width + c);
      const double wanted = double(host::widen(x[i])) * factor * (weighted ? double(weight[size_t(c)]) : 1);
      CHECK(near(double(host::widen(y[i])), wanted, rounding<T> + 0x1p-21));
    }
  }
}

}  // namespace

TEST(rms_norm_of_any_size) {
  for (int64_t rows : {0, 1, 3, 100})
    for (int64_t width : {1, 7, 16, 33, 512, 1027})
      for (bool weighted : {false, true}) {
        agrees<float>(kernels, rows, width, weighted);
        agrees<bfloat16>(kernels, rows, width, weighted);
      }
}

}  // namespace deepport::test
