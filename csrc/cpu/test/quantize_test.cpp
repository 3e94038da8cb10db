#include <omp.h>

#include <cfloat>
#include <cstring>
#include <iterator>
#include <set>

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

// A matrix stack and where its blocks lie.
struct Stack {
  int64_t matrices, rows, columns, height, width, down, across;

  Stack(const Format& format, int64_t m, int64_t r, int64_t c)
      : matrices(m), rows(r), columns(c), height(format.rows ? format.rows : r), width(format.columns ? format.columns : c),
        down((r + height - 1) / height), across((c + width - 1) / width) {}

  int64_t numbers() const { return matrices * rows * columns; }
  int64_t blocks() const { return matrices * down * across; }
  int64_t block_of(int64_t i) const {
    const int64_t row = i / columns;
    return (row / rows * down + row % rows / height) * across + i % columns / width;
  }
};

float largest(Element element) {
  return element == Element::int8 ? 127 : element == Element::e2m1 ? 6 : element == Element::e4m3 ? 448 : 240;
}

// The least scale under which a number is in range; 1 for 0.
float least_scale(const Format& format, float size) {
  if (size == 0) return 1;
  if (!format.power_of_two) return std::max(size / largest(format.element), FLT_MIN);
  int exponent = -127;
  while (double(size) > std::ldexp(double(largest(format.element)), exponent)) ++exponent;
  return std::ldexp(1.0f, exponent);
}

// What each code of an element means, and the numbers next to it: a number no further than these is nearest of all.
struct Meanings {
  std::vector<double> of, below, above;
  bool zero_has_sign;

  explicit Meanings(Element element) : of(element == Element::e2m1 ? 16 : 256), below(of.size()), above(of.size()) {
    std::set<double> numbers;
    for (size_t code = 0; code < of.size(); ++code) {
      const uint8_t room[4] = {uint8_t(code)};
      of[code] = value(room, element, 0);
      if (!std::isnan(of[code])) numbers.insert(of[code]);
    }
    for (size_t code = 0; code < of.size(); ++code) {
      if (std::isnan(of[code])) continue;
      const auto here = numbers.find(of[code]);
      below[code] = here == numbers.begin() ? -INFINITY : *std::prev(here);
      above[code] = std::next(here) == numbers.end() ? INFINITY : *std::next(here);
    }
    const double middle = of[of.size() / 2];
    zero_has_sign = std::signbit(middle) && middle == 0;
  }
};

// Whether `code` is that of the number nearest to x, the even one of two, with x's sign if it can have one.
bool is_nearest(const Meanings& numbers, uint8_t code, double x) {
  const double found = numbers.of[code], distance = std::abs(found - x);
  if (std::isnan(found) || (numbers.zero_has_sign && std::signbit(found) != std::signbit(x))) return false;
  for (double rival : {numbers.below[code], numbers.above[code]}) {
    const double further = std::abs(rival - x);
    if (further < distance || (further == distance && (code & 1))) return false;
  }
  return true;
}

uint8_t code_at(const Guarded<uint8_t>& data, Element element, int64_t i) {
  return element == Element::e2m1 ? uint8_t(data[size_t(i / 2)] >> i % 2 * 4 & 15) : data[size_t(i)];
}

template <class T>
struct Quantised {
  Format format;
  Stack of;
  Guarded<uint8_t> data, scale;

  Quantised(const Table& kernels, const Format& f, const Stack& stack, const Guarded<T>& x)
      : format(f), of(stack), data(size_t(bytes(f.element, of.numbers()))), scale(size_t(of.blocks() * (f.power_of_two ? 1 : 4))) {
    kernels.quantize(x.data(), type_of<T>, data.data(), scale.data(), format, of.matrices, of.rows, of.columns);
  }

  float scale_at(int64_t block) const {
    if (format.power_of_two) return std::ldexp(1.0f, scale[size_t(block)] - 127);
    float factor;
    std::memcpy(&factor, scale.data() + 4 * block, sizeof factor);
    return factor;
  }

  bool agrees(const Guarded<T>& x) const {
    std::vector<float> tops(static_cast<size_t>(of.blocks()));
    for (int64_t i = 0; i < of.numbers(); ++i) {
      float& top = tops[size_t(of.block_of(i))];
      top = std::max(top, std::abs(host::widen(x[size_t(i)])));
    }
    for (int64_t b = 0; b < of.blocks(); ++b)
      if (scale_at(b) != least_scale(format, tops[size_t(b)])) return false;
    const Meanings numbers(format.element);
    for (int64_t i = 0; i < of.numbers(); ++i)
      if (!is_nearest(numbers, code_at(data, format.element, i), double(host::widen(x[size_t(i)]) / scale_at(of.block_of(i)))))
        return false;
    return true;
  }
};

constexpr Format formats[] = {{Element::int8, false, 1, 0},       {Element::int8, false, 0, 1},      {Element::e4m3, true, 128, 128},
                              {Element::e4m3, false, 32, 32},     {Element::e4m3, true, 3, 5},       {Element::e4m3, true, 2, 1},
                              {Element::e4m3fnuz, true, 1, 32},   {Element::e4m3fnuz, false, 1, 128}, {Element::e2m1, true, 1, 32}};

// Numbers of all magnitudes, many of them midway between two elements.
template <class T>
Guarded<T> spread(std::mt19937& g, int64_t n, int least, int most) {
  Guarded<T> x(static_cast<size_t>(n));
  for (size_t i = 0; i < x.size(); ++i)
    x[i] = host::narrow<T>(std::ldexp(float(int(g() % 65) - 32), least + int(g() % unsigned(most - least + 1))));
  return x;
}

template <class T>
void quantize_agrees(const Table& kernels, const Format& format, int64_t rows, int64_t columns) {
  std::mt19937 g(unsigned(rows + columns));
  const Stack stack(format, 2, rows, columns);
  for (const auto& [least, most] : {std::pair{-8, -3}, {-149, -120}, {-149, 100}, {100, 122}}) {
    const Guarded<T> x = spread<T>(g, stack.numbers(), least, most);
    CHECK(Quantised<T>(kernels, format, stack, x).agrees(x));
  }
  const Guarded<T> zeros(static_cast<size_t>(stack.numbers()));
  CHECK(Quantised<T>(kernels, format, stack, zeros).agrees(zeros));
}

template <class T>
void quantize_refuses(const Table& kernels, const Format& format, float bad) {
  const Stack stack(format, 2, 3, 66);
  for (int64_t at : {int64_t(0), stack.numbers() / 2, stack.numbers() - 1}) {
    Guarded<T> x(static_cast<size_t>(stack.numbers()));
    x[size_t(at)] = host::narrow<T>(bad);
    CHECK(refused<std::invalid_argument>([&] { Quantised<T>(kernels, format, stack, x); }));
  }
}

bool same_bytes(const Guarded<uint8_t>& a, const Guarded<uint8_t>& b) {
  return a.size() == b.size() && !std::memcmp(a.data(), b.data(), a.size());
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

TEST(quantized_numbers_are_nearest_under_the_least_scale) {
  for (const Format& format : formats)
    for (int64_t rows : {1, 5, 130})
      for (int64_t columns : {2, 34, 128, 150}) {
        quantize_agrees<float>(kernels, format, rows, columns);
        quantize_agrees<bfloat16>(kernels, format, rows, columns);
      }
}

TEST(quantize_goes_on_behind_a_panel) {
  for (const Format& format : formats) quantize_agrees<bfloat16>(kernels, format, 3, 2100);
}

TEST(quantize_of_nothing_writes_nothing) {
  for (const Format& format : formats)
    for (const auto& [matrices, rows, columns] : {std::tuple{0, 3, 4}, {2, 0, 4}, {2, 3, 0}})
      kernels.quantize(nullptr, Type::float32, nullptr, nullptr, format, matrices, rows, columns);
}

TEST(quantize_refuses_what_is_not_finite) {
  for (const Format& format : formats)
    for (float bad : {INFINITY, -INFINITY, NAN, -NAN}) {
      quantize_refuses<float>(kernels, format, bad);
      quantize_refuses<bfloat16>(kernels, format, bad);
    }
}

TEST(quantize_is_the_same_on_any_number_of_threads) {
  const int before = omp_get_max_threads();
  std::mt19937 g(1);
  const Guarded<float> x = normal<float>(g, size_t(2 * 300 * 1100));
  for (const Format& format : formats) {
    const Stack stack(format, 2, 300, 1100);
    omp_set_num_threads(1);
    const Quantised<float> alone(kernels, format, stack, x);
    for (int threads : {2, 3}) {
      omp_set_num_threads(threads);
      const Quantised<float> together(kernels, format, stack, x);
      CHECK(same_bytes(alone.data, together.data) && same_bytes(alone.scale, together.scale));
    }
  }
  omp_set_num_threads(before);
}

}  // namespace deepport::test
