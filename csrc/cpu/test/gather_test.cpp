#include <stdexcept>

#include "check.h"

namespace deepport::test {
namespace {

// An element's value, from its code, by the definition of its format.
double small_float(unsigned code, int bias, bool nan) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  const double size = exponent ? std::ldexp(8 + mantissa, exponent - bias - 3) : std::ldexp(mantissa, -bias - 2);
  return nan ? NAN : code & 128 ? -size : size;
}

double value(const void* rows, Element element, int64_t i) {
  const uint8_t* codes = static_cast<const uint8_t*>(rows);
  constexpr double halves[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  switch (element) {
    case Element::float32: return double(static_cast<const float*>(rows)[i]);
    case Element::bfloat16: return double(host::widen(static_cast<const bfloat16*>(rows)[i]));
    case Element::int8: return double(static_cast<const int8_t*>(rows)[i]);
    case Element::e4m3: return small_float(codes[i], 7, (codes[i] & 127) == 127);
    case Element::e4m3fnuz: return small_float(codes[i], 8, codes[i] == 128);
    case Element::e2m1: {
      const unsigned code = codes[i / 2] >> i % 2 * 4 & 15;
      return code & 8 ? -halves[code & 7] : halves[code & 7];
    }
  }
  return NAN;
}

int64_t bytes(Element element, int64_t width) {
  return element == Element::float32 ? 4 * width : element == Element::bfloat16 ? 2 * width : element == Element::e2m1 ? width / 2 : width;
}

// Tables of random bytes: every code there is, and of plain numbers NaN and subnormals too.
template <class T>
void agrees(const Table& kernels, const Format& format, int64_t count, int64_t height, int64_t width) {
  std::mt19937 g(unsigned(count + width));
  const bool plain = format.element == Element::float32 || format.element == Element::bfloat16;
  const int64_t block = format.columns ? format.columns : width, blocks = (width + block - 1) / block;
  Guarded<uint8_t> rows(size_t(height * bytes(format.element, width)));
  Guarded<uint8_t> powers(size_t(height * blocks));
  Guarded<float> factors(size_t(height * blocks));
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = uint8_t(g());
  for (size_t i = 0; i < powers.size(); ++i) powers[i] = uint8_t(g());
  for (size_t i = 0; i < factors.size(); ++i) factors[i] = std::ldexp(float(g() % 1000), -int(g() % 40));
  Guarded<int64_t> ids(static_cast<size_t>(count));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = int64_t(g() % unsigned(height));
  Guarded<T> found(size_t(count * width));
  const void* scale = plain ? nullptr : format.power_of_two ? static_cast<const void*>(powers.data()) : factors.data();
  kernels.engram_gather(rows.data(), scale, format, ids.data(), found.data(), type_of<T>, count, height, width);
  for (int64_t i = 0; i < count; ++i)
    for (int64_t c = 0; c < width; ++c) {
      const int64_t at = ids[size_t(i)] * width + c;
      const size_t s = size_t(ids[size_t(i)] * blocks + c / block);
      double factor = plain ? 1 : double(factors[s]);
      if (!plain && format.power_of_two) factor = powers[s] == 255 ? NAN : std::ldexp(1.0, powers[s] - 127);
      const T wanted = host::narrow<T>(float(value(rows.data(), format.element, at) * factor)), got = found[size_t(i * width + c)];
      CHECK(host::widen(got) == host::widen(wanted) || (std::isnan(host::widen(got)) && std::isnan(host::widen(wanted))));
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
    bool refused = false;
    try {
      kernels.engram_gather(rows, nullptr, {Element::float32, false, 0, 0}, ids, found, Type::float32, 3, 3, 1);
    } catch (const std::out_of_range&) {
      refused = true;
    }
    CHECK(refused && found[0] == 0 && found[2] == 0);
  }
}

}  // namespace deepport::test
