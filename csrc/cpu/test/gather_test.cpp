#include <stdexcept>

#include "check.h"
#include "quantized.h"

namespace deepport::test {
namespace {

// Tables of random bytes: every code there is, and of plain numbers NaN and subnormals too.
template <class T>
void agrees(const Table& kernels, const Format& format, int64_t count, int64_t height, int64_t width) {
  std::mt19937 g(unsigned(count + width));
  const int64_t block = format.columns ? format.columns : width, blocks = (width + block - 1) / block;
  const Guarded<uint8_t> rows = random_bytes(g, height * bytes(format.element, width));
  const Scales scales(g, height * blocks);
  Guarded<int64_t> ids(static_cast<size_t>(count));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = int64_t(g() % unsigned(height));
  Guarded<T> found(size_t(count * width));
  kernels.engram_gather(rows.data(), scales.data(format), format, ids.data(), found.data(), type_of<T>, count, height, width);
  for (int64_t i = 0; i < count; ++i)
    for (int64_t c = 0; c < width; ++c) {
      const double factor = scales.at(format, ids[size_t(i)] * blocks + c / block);
      CHECK(is_rounded(found[size_t(i * width + c)], value(rows.data(), format.element, ids[size_t(i)] * width + c) * factor));
    }
}

}  // namespace

TEST(gathered_rows_are_those_of_the_table) {
  for (const Format& format : {Format{Element::float32, false, 0, 0}, {Element::bfloat16, false, 0, 0}, {Element::int8, false, 1, 0},
                               {Element::e4m3, true, 1, 32}, {Element::e4m3, false, 1, 32}, {Element::e4m3fnuz, true, 1, 64},
                               {Element::e4m3, true, 1, 5}, {Element::e2m1, true, 1, 32}})
    for (int64_t count : {0, 1, 40})
      for (int64_t width : {2, 32, 70, 256}) {
        agrees<float>(kernels, format, count, 19, width);
        agrees<bfloat16>(kernels, format, count, 19, width);
      }
}

TEST(gather_refuses_an_id_that_is_none) {
  for (int64_t id : {int64_t(-1), int64_t(3), int64_t(1) << 33, INT64_MIN}) {
    const float rows[3] = {1, 2, 3};
    const int64_t ids[3] = {0, id, 2};
    float found[3] = {};
    CHECK(refused([&] {
      kernels.engram_gather(rows, nullptr, {Element::float32, false, 0, 0}, ids, found, Type::float32, 3, 3, 1);
    }));
    CHECK(found[0] == 0 && found[2] == 0);
  }
}

}  // namespace deepport::test
