#include <omp.h>

#include <cstring>

#include "check.h"

namespace deepport::test {
namespace {

constexpr float e2m1[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};

// The value of code `c` by its definition: 2^(e - bias) (1 + m / 8), and 2^(1 - bias) m / 8 below it.
double float8(unsigned c, int bias, unsigned nan) {
  if (nan == 0x80 ? c == nan : (c & nan) == nan) return std::nan("");
  const int e = int(c >> 3 & 15), m = int(c & 7);
  const double magnitude = e ? std::ldexp(1 + m / 8.0, e - bias) : std::ldexp(m / 8.0, 1 - bias);
  return c & 0x80 ? -magnitude : magnitude;
}

bool scaled(const Format& format) { return format.element != Element::float32 && format.element != Element::bfloat16; }

struct Shape {
  int64_t tokens, groups, rows, columns;
};

// Random bytes of a format as a weight [groups * rows, columns], and what they mean.
struct Quantised {
  Guarded<uint8_t> data, scale;
  std::vector<double> values;
};

double element(Element of, const uint8_t* data, int64_t i) {
  switch (of) {
    case Element::float32: return double(reinterpret_cast<const float*>(data)[i]);
    case Element::bfloat16: return double(host::widen(reinterpret_cast<const bfloat16*>(data)[i]));
    case Element::e4m3: return float8(data[i], 7, 0x7f);
    case Element::e4m3fnuz: return float8(data[i], 8, 0x80);
    case Element::e2m1: return double(e2m1[data[i / 2] >> i % 2 * 4 & 15]);
    default: return double(int8_t(data[i]));
  }
}

int64_t element_bytes(Element of, int64_t n) {
  return of == Element::float32 ? 4 * n : of == Element::bfloat16 ? 2 * n : of == Element::e2m1 ? n / 2 : n;
}

void draw(std::mt19937& generator, Element of, Guarded<uint8_t>& data, int64_t n) {
  std::normal_distribution<float> normal;
  if (of == Element::float32)
    for (int64_t i = 0; i < n; ++i) reinterpret_cast<float*>(data.data())[i] = normal(generator);
  else if (of == Element::bfloat16)
    for (int64_t i = 0; i < n; ++i) reinterpret_cast<bfloat16*>(data.data())[i] = host::narrow<bfloat16>(normal(generator));
  else
    for (size_t i = 0; i < data.size(); ++i) {
      data[i] = uint8_t(generator());
      const bool nan = of == Element::e4m3 ? (data[i] & 0x7f) == 0x7f : of == Element::e4m3fnuz && data[i] == 0x80;
      if (nan) data[i] = 1;
    }
}

Quantised quantised(std::mt19937& generator, const Format& format, const Shape& s, uint8_t least, uint8_t most) {
  const int64_t n = s.groups * s.rows * s.columns;
  const int64_t tall = format.rows ? format.rows : std::max<int64_t>(s.rows, 1), wide = format.columns ? format.columns : std::max<int64_t>(s.columns, 1);
  const int64_t down = (s.rows + tall - 1) / tall, across = (s.columns + wide - 1) / wide, scales = s.groups * down * across;
  Quantised found{Guarded<uint8_t>(size_t(element_bytes(format.element, n))),
                  Guarded<uint8_t>(scaled(format) ? size_t(scales * (format.power_of_two ? 1 : 4)) : 0), {}};
  draw(generator, format.element, found.data, n);
  for (int64_t i = 0; scaled(format) && i < scales; ++i) {
    if (format.power_of_two) {
      found.scale[size_t(i)] = uint8_t(least + generator() % (most - least + 1u));
    } else {
      const float scale = 0.5f + float(generator() % 1000) / 1000;
      std::memcpy(found.scale.data() + 4 * i, &scale, 4);
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    const int64_t g = i / (s.rows * s.columns), row = i / s.columns % s.rows, column = i % s.columns;
    const int64_t at = (g * down + row / tall) * across + column / wide;
    double scale = 1;
    if (scaled(format) && format.power_of_two) {
      scale = std::ldexp(1, int(found.scale[size_t(at)]) - 127);
    } else if (scaled(format)) {
      float f;
      std::memcpy(&f, found.scale.data() + 4 * at, 4);
      scale = double(f);
    }
    found.values.push_back(element(format.element, found.data.data(), i) * scale);
  }
  return found;
}

template <class T, class R>
Guarded<R> computed(const Table& kernels, const Guarded<T>& x, const Quantised& w, const Format& format, const Shape& s) {
  Guarded<R> y(size_t(s.tokens * s.groups * s.rows));
  kernels.linear(x.data(), w.data.data(), scaled(format) ? w.scale.data() : nullptr, y.data(), type_of<T>, type_of<R>, format,
                 s.tokens, s.groups, s.rows, s.columns);
  return y;
}

// Against sums in float64: within one rounding in float32 for each addition, and for value and scale, and one to R.
template <class T, class R>
void agrees(const Table& kernels, const Format& format, const Shape& s, uint8_t least = 120, uint8_t most = 130) {
  std::mt19937 generator(unsigned(s.tokens * 7919 + s.rows * 31 + s.columns + int(format.element)));
  const Guarded<T> x = normal<T>(generator, size_t(s.tokens * s.groups * s.columns));
  const Quantised w = quantised(generator, format, s, least, most);
  const Guarded<R> y = computed<T, R>(kernels, x, w, format, s);
  for (int64_t t = 0; t < s.tokens; ++t)
    for (int64_t g = 0; g < s.groups; ++g)
      for (int64_t n = 0; n < s.rows; ++n) {
        double sum = 0, size = 0;
        for (int64_t k = 0; k < s.columns; ++k) {
          const double a = double(host::widen(x[size_t((t * s.groups + g) * s.columns + k)]));
          const double term = a * w.values[size_t((g * s.rows + n) * s.columns + k)];
          sum += term;
          size += std::abs(term);
        }
        const double found = double(host::widen(y[size_t((t * s.groups + g) * s.rows + n)]));
        CHECK(near(found, sum, rounding<R>, size * double(s.columns + 2) * 0x1p-24));
      }
}

const Format formats[] = {
    {Element::float32, false, 0, 0},    {Element::bfloat16, false, 0, 0},  {Element::e4m3, true, 128, 128}, {Element::e4m3, false, 32, 32},
    {Element::e4m3, true, 1, 32},       {Element::e4m3, false, 5, 7},      {Element::e4m3fnuz, true, 32, 64}, {Element::e2m1, true, 1, 32},
    {Element::int8, false, 1, 0},       {Element::int8, false, 0, 1},
};

}  // namespace

TEST(linear_of_any_size_and_format) {
  for (const Format& format : formats)
    for (const Shape& s : {Shape{0, 1, 3, 32}, {3, 1, 5, 0}, {20, 1, 5, 0}, {30, 1, 5, 0}, {1, 1, 33, 70}, {3, 2, 17, 34},
                           {8, 1, 16, 64}, {9, 1, 1, 2}, {17, 2, 40, 96}, {30, 2, 70, 96}, {40, 1, 19, 130}}) {
      agrees<float, float>(kernels, format, s);
      agrees<bfloat16, bfloat16>(kernels, format, s);
      agrees<bfloat16, float>(kernels, format, s);
    }
}

// More than a block of rows, columns and tokens.
TEST(linear_of_many_blocks) {
  for (const Format& format : {formats[1], formats[3], formats[7]}) agrees<bfloat16, bfloat16>(kernels, format, {530, 1, 150, 544});
}

// Scales that cannot be folded into bfloat16 are applied to sums.
TEST(linear_of_extreme_scales) {
  for (uint8_t exponent : {uint8_t(1), uint8_t(14), uint8_t(242)})
    for (int64_t tokens : {1, 20, 30})
      agrees<bfloat16, float>(kernels, formats[7], {tokens, 1, 20, 96}, exponent, uint8_t(exponent + 3));
}

// Each in a row of its own, at its end: a number, or NaN for every token.
TEST(linear_takes_every_code_of_eight_bits) {
  for (const Format& format : {formats[2], formats[6], formats[8]})
    for (int64_t tokens : {1, 7, 16, 30})
      for (int64_t columns : {32, 37}) {
        const Shape s{tokens, 1, 256, columns};
        const auto last = [&](size_t i) { return int64_t(i) % columns == columns - 1; };
        Guarded<bfloat16> x(size_t(tokens * columns));
        for (size_t i = 0; i < x.size(); ++i) x[i] = host::narrow<bfloat16>(last(i) ? 1 : 0);
        Quantised w{Guarded<uint8_t>(size_t(256 * columns)), Guarded<uint8_t>(256 * 4), {}};
        for (size_t i = 0; i < w.data.size(); ++i) w.data[i] = last(i) ? uint8_t(int64_t(i) / columns) : 0;
        for (size_t i = 0; i < w.scale.size(); ++i) w.scale[i] = 127;  // 1 as a power of two
        const float one = 1;
        for (size_t i = 0; !format.power_of_two && i < w.scale.size(); i += 4) std::memcpy(w.scale.data() + i, &one, 4);
        const Guarded<float> y = computed<bfloat16, float>(kernels, x, w, format, s);
        for (size_t i = 0; i < y.size(); ++i)
          CHECK(near(double(y[i]), element(format.element, w.data.data(), (int64_t(i % 256) + 1) * columns - 1), 0));
      }
}

TEST(linear_is_the_same_for_any_number_of_threads) {
  std::mt19937 generator(1);
  for (const Format& format : {formats[0], formats[1], formats[7]})
    for (int64_t tokens : {1, 5, 40}) {
      const Shape s{tokens, 2, 170, 256};
      const Guarded<bfloat16> x = normal<bfloat16>(generator, size_t(tokens * 2 * 256));
      Quantised w = quantised(generator, format, s, 120, 130);
      if (format.power_of_two) w.scale[0] = 1;  // of one row: it has to be multiplied in another way than the others
      const Guarded<bfloat16> alone = computed<bfloat16, bfloat16>(kernels, x, w, format, s);
      for (int threads : {2, 3}) {
        const int before = omp_get_max_threads();
        omp_set_num_threads(threads);
        const Guarded<bfloat16> shared = computed<bfloat16, bfloat16>(kernels, x, w, format, s);
        omp_set_num_threads(before);
        CHECK(!std::memcmp(alone.data(), shared.data(), alone.size() * sizeof(bfloat16)));
      }
    }
}

}  // namespace deepport::test
