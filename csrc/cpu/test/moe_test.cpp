#include <algorithm>
#include <limits>
#include <numeric>
#include <stdexcept>

#include "check.h"

namespace deepport::test {
namespace {

// Ids of experts, some of them none.
Guarded<int32_t> chosen(std::mt19937& generator, int64_t copies, int64_t experts) {
  std::uniform_int_distribution<int32_t> draw(-1, int32_t(experts) - 1);
  Guarded<int32_t> ids{size_t(copies)};
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = draw(generator);
  return ids;
}

void dispatches(const Table& kernels, int64_t tokens, int64_t k, int64_t experts, int64_t width) {
  std::mt19937 generator(unsigned(tokens * 100 + k));
  const Guarded<float> x = normal<float>(generator, size_t(tokens * width));
  const Guarded<int32_t> ids = chosen(generator, tokens * k, experts);
  Guarded<float> rows(size_t(tokens * k * width));
  Guarded<int32_t> offsets(size_t(experts + 1)), inverse(size_t(tokens * k));
  kernels.moe_dispatch(x.data(), ids.data(), rows.data(), offsets.data(), inverse.data(), tokens, k, experts, width * 4);
  std::vector<int32_t> order(ids.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return uint32_t(ids[size_t(a)]) < uint32_t(ids[size_t(b)]); });
  for (size_t r = 0; r < order.size(); ++r) {
    const size_t i = size_t(order[r]);
    CHECK(inverse[i] == int32_t(r));
    if (ids[i] < 0) continue;
    CHECK(offsets[size_t(ids[i])] <= int32_t(r) && int32_t(r) < offsets[size_t(ids[i]) + 1]);
    for (int64_t c = 0; c < width; ++c) CHECK(rows[r * size_t(width) + size_t(c)] == x[i / size_t(k) * size_t(width) + size_t(c)]);
  }
}

template <class T>
void combines(const Table& kernels, int64_t tokens, int64_t k, int64_t width) {
  std::mt19937 generator(unsigned(tokens * 100 + width));
  const Guarded<T> y = normal<T>(generator, size_t(tokens * k * width));
  const Guarded<float> weights = normal<float>(generator, size_t(tokens * k));
  const Guarded<int32_t> ids = chosen(generator, tokens * k, 3);
  Guarded<int32_t> inverse(size_t(tokens * k));
  std::iota(inverse.data(), inverse.data() + inverse.size(), 0);
  std::shuffle(inverse.data(), inverse.data() + inverse.size(), generator);
  for (size_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0) inverse[i] = std::numeric_limits<int32_t>::max();
  Guarded<T> out(size_t(tokens * width));
  kernels.moe_combine(y.data(), weights.data(), inverse.data(), ids.data(), out.data(), type_of<T>, tokens * k, tokens, k,
                      width);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t c = 0; c < width; ++c) {
      double wanted = 0, size = 0;
      for (int64_t j = 0; j < k; ++j) {
        const size_t i = size_t(t * k + j);
        if (ids[i] < 0) continue;
        const double term = double(weights[i]) * double(host::widen(y[size_t(inverse[i] * width + c)]));
        wanted += term;
        size += std::abs(term);
      }
      CHECK(near(double(host::widen(out[size_t(t * width + c)])), wanted, rounding<T>, size * 0x1p-22));
    }
}

template <class T>
void activates(const Table& kernels, int64_t n, double limit) {
  std::mt19937 generator{unsigned(n)};
  const Guarded<T> gate = normal<T>(generator, size_t(n), 20), up = normal<T>(generator, size_t(n), 20);
  Guarded<T> y{size_t(n)};
  kernels.swiglu(gate.data(), up.data(), y.data(), type_of<T>, n, float(limit));
  for (size_t i = 0; i < y.size(); ++i) {
    const double g = std::min(double(host::widen(gate[i])), limit);
    const double u = std::clamp(double(host::widen(up[i])), -limit, limit);
    CHECK(near(double(host::widen(y[i])), g / (1 + std::exp(-g)) * u, rounding<T> + 0x1p-21));
  }
}

double score(Scoring scoring, const Guarded<float>& logits, size_t t, size_t experts, size_t e) {
  const double x = double(logits[t * experts + e]);
  if (scoring == Scoring::sqrtsoftplus) return std::sqrt(std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))));
  if (scoring == Scoring::sigmoid) return 1 / (1 + std::exp(-x));
  double total = 0;
  for (size_t i = 0; i < experts; ++i) total += std::exp(double(logits[t * experts + i]) - x);
  return 1 / total;
}

void routes(const Table& kernels, Scoring scoring, size_t tokens, size_t experts, size_t k, float spread) {
  std::mt19937 generator{unsigned(experts)};
  const Guarded<float> logits = normal<float>(generator, tokens * experts, spread);
  const Guarded<float> bias = normal<float>(generator, experts, spread);
  Guarded<float> weights(tokens * k);
  Guarded<int32_t> ids(tokens * k);
  kernels.route(logits.data(), Type::float32, bias.data(), nullptr, nullptr, 0, weights.data(), ids.data(), int64_t(tokens),
                int64_t(experts), int64_t(k), scoring, 2.5f);
  for (size_t t = 0; t < tokens; ++t) {
    const auto biased = [&](size_t e) { return score(scoring, logits, t, experts, e) + double(bias[e]); };
    const int32_t* row = ids.data() + t * k;
    double total = 0, least = std::numeric_limits<double>::infinity();
    for (size_t j = 0; j < k; ++j) {
      total += score(scoring, logits, t, experts, size_t(row[j]));
      CHECK(biased(size_t(row[j])) <= least + 1e-5);
      least = std::min(least, biased(size_t(row[j])));
      CHECK(std::count(row, row + k, row[j]) == 1);
    }
    for (size_t e = 0; e < experts; ++e) CHECK(biased(e) <= least + 1e-5 || std::count(row, row + k, int32_t(e)) == 1);
    for (size_t j = 0; j < k; ++j)
      CHECK(near(double(weights[t * k + j]), 2.5 * score(scoring, logits, t, experts, size_t(row[j])) / total, 0x1p-20));
  }
}

}  // namespace

TEST(moe_dispatch_sorts_copies) {
  for (int64_t tokens : {0, 1, 50})
    for (int64_t k : {1, 6})
      for (int64_t width : {1, 33}) dispatches(kernels, tokens, k, 7, width);
}

TEST(moe_combine_skips_what_was_dropped) {
  for (int64_t tokens : {0, 1, 50})
    for (int64_t k : {1, 6})
      for (int64_t width : {1, 33, 512}) {
        combines<float>(kernels, tokens, k, width);
        combines<bfloat16>(kernels, tokens, k, width);
      }
}

TEST(moe_combine_refuses_rows_that_are_not_there) {
  const Guarded<float> y(2 * 4), weights(2);
  Guarded<float> out(4);
  for (const auto& [kept, row] : {std::pair{0, 2}, {0, -7}, {-1, 2}}) {
    const int32_t ids[] = {0, kept}, inverse[] = {1, row};
    const bool thrown = refused([&, inverse = inverse, ids = ids] {
      kernels.moe_combine(y.data(), weights.data(), inverse, ids, out.data(), Type::float32, 2, 1, 2, 4);
    });
    CHECK(thrown == (kept >= 0));
  }
}

TEST(swiglu_of_any_size) {
  for (int64_t n : {0, 1, 7, 16, 1027})
    for (double limit : {std::numeric_limits<double>::infinity(), 10.0}) {
      activates<float>(kernels, n, limit);
      activates<bfloat16>(kernels, n, limit);
    }
}

TEST(route_chooses_the_best) {
  for (Scoring scoring : {Scoring::sqrtsoftplus, Scoring::sigmoid, Scoring::softmax})
    for (size_t tokens : {0, 1, 40})
      for (size_t experts : {8, 13, 257})
        for (float spread : {1.0f, 0.001f}) routes(kernels, scoring, tokens, experts, 8, spread);
}

TEST(route_prefers_the_lowest_of_equal_ids_and_puts_nan_first) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> logits{0, 1, 1, nan, 0, 1};
  std::vector<float> weights(5);
  std::vector<int32_t> ids(5);
  kernels.route(logits.data(), Type::float32, nullptr, nullptr, nullptr, 0, weights.data(), ids.data(), 1, 6, 5, Scoring::sigmoid,
                1.0f);
  CHECK((ids == std::vector<int32_t>{3, 1, 2, 5, 0}));
}

TEST(route_by_table) {
  const std::vector<float> logits{0, 1, 2, 0, 1, 2};
  const std::vector<int64_t> table{2, 0, 1, 2}, input{1, 0};
  std::vector<float> weights(4);
  std::vector<int32_t> ids(4);
  const auto run = [&](const int64_t* rows, const int64_t* input_ids) {
    kernels.route(logits.data(), Type::float32, nullptr, rows, input_ids, 2, weights.data(), ids.data(), 2, 3, 2, Scoring::softmax,
                  1.0f);
  };
  run(table.data(), input.data());
  CHECK((ids == std::vector<int32_t>{1, 2, 2, 0}));
  CHECK(near(double(weights[0]), 1 / (1 + std::exp(1.0)), 0x1p-20));
  const auto outside = [&](const std::vector<int64_t>& rows, const std::vector<int64_t>& input_ids) {
    return refused([&] { run(rows.data(), input_ids.data()); });
  };
  CHECK(outside(table, {0, 2}));
  CHECK(outside(table, {-1, 0}));
  CHECK(outside({2, 3, 1, 2}, {0, 0}));
}

}  // namespace deepport::test
