#include "check.h"

namespace deepport::test {
namespace {

template <class T>
void agrees(const Table& kernels, int64_t tokens, int64_t heads, int64_t width, int64_t pairs, bool inverse) {
  std::mt19937 generator(unsigned(tokens * 1000 + width));
  const Guarded<T> x = normal<T>(generator, size_t(tokens * heads * width));
  const Guarded<float> cos = normal<float>(generator, size_t(tokens * pairs)), sin = normal<float>(generator, size_t(tokens * pairs));
  Guarded<T> y(size_t(tokens * heads * width));
  kernels.rotary(x.data(), cos.data(), sin.data(), y.data(), type_of<T>, tokens, heads, width, pairs, inverse);
  const auto at = [](const Guarded<T>& of, int64_t i) { return double(host::widen(of[size_t(i)])); };
  for (int64_t row = 0; row < tokens * heads; ++row) {
    const int64_t t = row / heads, first = row * width;
    for (int64_t c = 0; c < width - 2 * pairs; ++c) CHECK(at(y, first + c) == at(x, first + c));
    for (int64_t p = 0; p < pairs; ++p) {
      const int64_t even = first + width - 2 * pairs + 2 * p;
      const double c = double(cos[size_t(t * pairs + p)]), s = double(sin[size_t(t * pairs + p)]) * (inverse ? -1 : 1);
      const double a = at(x, even), b = at(x, even + 1), size = (std::abs(a) + std::abs(b)) * (std::abs(c) + std::abs(s));
      CHECK(near(at(y, even), a * c - b * s, rounding<T>, size * 0x1p-22));
      CHECK(near(at(y, even + 1), b * c + a * s, rounding<T>, size * 0x1p-22));
    }
  }
}

}  // namespace

TEST(rotary_of_any_size) {
  for (int64_t tokens : {0, 1, 5})
    for (int64_t heads : {1, 3})
      for (int64_t pairs : {1, 4, 8, 19})
        for (int64_t kept : {0, 1, 24})
          for (bool inverse : {false, true}) {
            agrees<float>(kernels, tokens, heads, kept + 2 * pairs, pairs, inverse);
            agrees<bfloat16>(kernels, tokens, heads, kept + 2 * pairs, pairs, inverse);
          }
}

}  // namespace deepport::test
