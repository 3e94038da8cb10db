#include <algorithm>
#include <cstring>
#include <functional>

#include "threads.h"

namespace deepport::test {
namespace {

// Random matrices in a number format, and what they are.
struct Matrices {
  Guarded<uint8_t> data, scale;
  std::vector<double> values;
};

// One element's value. E2M1's bytes hold two.
double value(Element element, const uint8_t* data, size_t i) {
  const auto small = [&](int bias) {
    const int bits = data[i], exponent = bits >> 3 & 15;
    const double size = exponent ? std::ldexp(8 + (bits & 7), exponent - bias - 3) : std::ldexp(bits & 7, -bias - 2);
    return bits & 128 ? -size : size;
  };
  const double fours[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  switch (element) {
    case Element::float32: return double(reinterpret_cast<const float*>(data)[i]);
    case Element::bfloat16: return double(host::widen(reinterpret_cast<const bfloat16*>(data)[i]));
    case Element::e4m3: return small(7);
    case Element::e4m3fnuz: return small(8);
    case Element::e2m1: {
      const int bits = data[i / 2] >> i % 2 * 4 & 15;
      return (bits & 8 ? -1 : 1) * fours[bits & 7];
    }
    default: return double(int8_t(data[i]));
  }
}

size_t bytes_of(Element element, size_t n) {
  return element == Element::float32 ? 4 * n : element == Element::bfloat16 ? 2 * n : element == Element::e2m1 ? n / 2 : n;
}

// Bytes that are no NaN.
void fill(std::mt19937& generator, Element element, Guarded<uint8_t>& data) {
  std::normal_distribution<float> draw;
  if (element == Element::float32)
    for (size_t i = 0; i < data.size() / 4; ++i) reinterpret_cast<float*>(data.data())[i] = draw(generator);
  else if (element == Element::bfloat16)
    for (size_t i = 0; i < data.size() / 2; ++i) reinterpret_cast<bfloat16*>(data.data())[i] = host::narrow<bfloat16>(draw(generator));
  else
    for (size_t i = 0; i < data.size(); ++i) {
      data[i] = uint8_t(generator());
      const bool nan = element == Element::e4m3 ? (data[i] & 127) == 127 : element == Element::e4m3fnuz && data[i] == 128;
      if (nan) data[i] = 0;
    }
}

Matrices random(std::mt19937& generator, const Format& format, size_t count, size_t rows, size_t columns) {
  const size_t height = format.rows ? size_t(format.rows) : rows, width = format.columns ? size_t(format.columns) : columns;
  const size_t down = (rows + height - 1) / height, across = (columns + width - 1) / width;
  const bool scaled = format.element != Element::float32 && format.element != Element::bfloat16;
  Matrices m{Guarded<uint8_t>(bytes_of(format.element, count * rows * columns)),
             Guarded<uint8_t>(scaled ? count * down * across * (format.power_of_two ? 1 : 4) : 0),
             std::vector<double>(count * rows * columns)};
  fill(generator, format.element, m.data);
  std::uniform_real_distribution<float> near_one(0.5f, 2);
  for (size_t i = 0; scaled && i < count * down * across; ++i) {
    if (format.power_of_two)
      m.scale[i] = uint8_t(124 + generator() % 6);
    else
      reinterpret_cast<float*>(m.scale.data())[i] = near_one(generator);
  }
  for (size_t i = 0; i < m.values.size(); ++i) {
    const size_t e = i / (rows * columns), r = i / columns % rows, c = i % columns;
    const size_t at = (e * down + r / height) * across + c / width;
    const double scale = !scaled ? 1 : format.power_of_two ? std::ldexp(1, m.scale[at] - 127)
                                                           : double(reinterpret_cast<const float*>(m.scale.data())[at]);
    m.values[i] = value(format.element, m.data.data(), i) * scale;
  }
  return m;
}

const std::vector<Format>& formats() {
  static const std::vector<Format> all{{Element::float32, false, 0, 0},    {Element::bfloat16, false, 0, 0},
                                       {Element::e2m1, true, 1, 32},       {Element::e4m3, true, 32, 32},
                                       {Element::e4m3, false, 128, 128},   {Element::e4m3, true, 3, 5},
                                       {Element::e4m3fnuz, true, 1, 32},   {Element::int8, false, 1, 0},
                                       {Element::int8, false, 0, 1}};
  return all;
}

// The same bits from one thread, two and three.
template <class T>
void with_any_threads(Guarded<T>& out, const std::function<void()>& run) {
  same_on_any_threads([&] {
    std::fill(out.data(), out.data() + out.size(), T{});
    run();
    return bytes(out);
  });
}

struct Sizes {
  size_t tokens, k, experts, width, hidden;
};

template <class T>
void sums_experts(const Table& kernels, const Format& format, const Sizes& s) {
  std::mt19937 generator(unsigned(s.tokens * 1000 + s.width));
  const double limit = 3;
  const Guarded<T> x = normal<T>(generator, s.tokens * s.width, 0.1f);
  const Guarded<float> weights = normal<float>(generator, s.tokens * s.k);
  const Matrices w13 = random(generator, format, s.experts, 2 * s.hidden, s.width);
  const Matrices w2 = random(generator, format, s.experts, s.width, s.hidden);
  Guarded<int32_t> ids(s.tokens * s.k);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = int32_t(generator() % (s.experts + 1)) - 1;
  Guarded<T> out(s.tokens * s.width);
  with_any_threads(out, [&] {
    kernels.moe_experts(x.data(), ids.data(), weights.data(), w13.data.data(), w13.scale.data(), w2.data.data(), w2.scale.data(), format,
                        out.data(), type_of<T>, int64_t(s.tokens), int64_t(s.k), int64_t(s.experts), int64_t(s.width),
                        int64_t(s.hidden), float(limit));
  });
  const auto product = [&](const double* row, size_t t) {
    double sum = 0;
    for (size_t c = 0; c < s.width; ++c) sum += row[c] * double(host::widen(x[t * s.width + c]));
    return sum;
  };
  std::vector<double> h(s.hidden);
  for (size_t t = 0; t < s.tokens; ++t) {
    std::vector<double> wanted(s.width), size(s.width);
    for (size_t j = 0; j < s.k; ++j) {
      if (ids[t * s.k + j] < 0) continue;
      const size_t e = size_t(ids[t * s.k + j]);
      for (size_t i = 0; i < s.hidden; ++i) {
        const double* row = w13.values.data() + (2 * e * s.hidden + i) * s.width;
        const double g = std::min(product(row, t), limit), u = std::clamp(product(row + s.hidden * s.width, t), -limit, limit);
        h[i] = g / (1 + std::exp(-g)) * u;
      }
      for (size_t c = 0; c < s.width; ++c)
        for (size_t i = 0; i < s.hidden; ++i) {
          const double term = double(weights[t * s.k + j]) * w2.values[(e * s.width + c) * s.hidden + i] * h[i];
          wanted[c] += term;
          size[c] += std::abs(term);
        }
    }
    // Of a hidden channel near 0 the error is that of larger numbers.
    const double most = *std::max_element(size.begin(), size.end());
    for (size_t c = 0; c < s.width; ++c)
      CHECK(near(double(host::widen(out[t * s.width + c])), wanted[c], rounding<T>, most * (sizeof(T) == 2 ? 0x1p-8 : 0x1p-17)));
  }
}

template <class T>
void multiplies_groups(const Table& kernels, const Format& format, const std::vector<int32_t>& counts, size_t columns, size_t rows) {
  std::mt19937 generator{unsigned(columns)};
  Guarded<int32_t> offsets(counts.size() + 1);
  for (size_t e = 0; e < counts.size(); ++e) offsets[e + 1] = offsets[e] + counts[e];
  const size_t used = size_t(offsets[counts.size()]), count = used + 2;
  const Guarded<T> x = normal<T>(generator, count * columns);
  const Matrices w = random(generator, format, counts.size(), rows, columns);
  Guarded<T> y(count * rows);
  with_any_threads(y, [&] {
    std::fill(y.data(), y.data() + y.size(), host::narrow<T>(7));
    kernels.grouped_linear(x.data(), w.data.data(), w.scale.data(), format, offsets.data(), y.data(), type_of<T>, int64_t(count),
                           int64_t(counts.size()), int64_t(rows), int64_t(columns));
  });
  for (size_t r = 0, e = 0; r < count; ++r) {
    while (e < counts.size() && int32_t(r) >= offsets[e + 1]) ++e;
    for (size_t n = 0; n < rows; ++n) {
      double wanted = 0, size = 0;
      for (size_t c = 0; c < columns && r < used; ++c) {
        const double term = double(host::widen(x[r * columns + c])) * w.values[(e * rows + n) * columns + c];
        wanted += term;
        size += std::abs(term);
      }
      CHECK(near(double(host::widen(y[r * rows + n])), wanted, rounding<T>, size * 0x1p-19));
    }
  }
}

}  // namespace

TEST(moe_experts_in_every_format) {
  for (const Format& format : formats())
    for (const Sizes& sizes : {Sizes{0, 2, 3, 32, 32}, Sizes{1, 2, 3, 128, 128}, Sizes{7, 2, 3, 256, 128}, Sizes{3, 1, 2, 36, 10},
                               Sizes{19, 2, 3, 256, 128}, Sizes{40, 2, 3, 72, 40}, Sizes{300, 1, 1, 34, 32}}) {
      sums_experts<float>(kernels, format, sizes);
      sums_experts<bfloat16>(kernels, format, sizes);
    }
}

TEST(grouped_linear_in_every_format) {
  for (const Format& format : formats())
    for (size_t columns : {32, 66, 256})
      for (size_t rows : {1, 33, 64}) {
        multiplies_groups<float>(kernels, format, {0, 3, 0, 13, 20, 1}, columns, rows);
        multiplies_groups<bfloat16>(kernels, format, {0, 3, 0, 13, 20, 1}, columns, rows);
      }
}

TEST(grouped_linear_without_rows) { multiplies_groups<bfloat16>(kernels, formats()[1], {0, 0}, 32, 32); }

}  // namespace deepport::test
