#include "check.h"

namespace deepport::test {

TEST(rotary_angles_are_of_float32_products) {
  for (int64_t pairs : {1, 4, 33}) {
    Guarded<int64_t> positions(5);
    const int64_t given[5] = {0, 1, -1, 4097, 1048575};
    for (size_t t = 0; t < 5; ++t) positions[t] = given[t];
    std::mt19937 generator(1);
    const Guarded<float> frequencies = normal<float>(generator, size_t(pairs));
    Guarded<float> cos(size_t(5 * pairs)), sin(size_t(5 * pairs));
    kernels.rotary_angles(positions.data(), frequencies.data(), cos.data(), sin.data(), 5, pairs, 4);
    for (size_t t = 0; t < 5; ++t)
      for (size_t r = 0; r < size_t(pairs); ++r) {
        const double angle = double(float(std::max(given[t], int64_t(0)) * 4) * frequencies[r]);
        CHECK(near(double(cos[t * size_t(pairs) + r]), std::cos(angle), 0x1p-24));
        CHECK(near(double(sin[t * size_t(pairs) + r]), std::sin(angle), 0x1p-24));
      }
  }
}

}  // namespace deepport::test
