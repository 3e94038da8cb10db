#include "attention.h"
#include "threads.h"

namespace deepport::test {
namespace {

template <class T>
void check(const Attention<T>& call, int64_t t, int64_t h) {
  const auto [heads, size] = std::pair{call.sizes.heads, call.sizes.size};
  const auto rows = call.seen(t);
  std::vector<double> weights;
  double total = 0, with_sink = call.sizes.sink ? std::exp(double(call.sink[size_t(h)])) : 0;
  for (const auto& entry : rows) {
    weights.push_back(std::exp(call.product(call.q, t, h, entry) / std::sqrt(double(size))));
    total += weights.back();
  }
  with_sink += total;
  CHECK(near(double(call.lse[size_t(t * heads + h)]), std::log(total), 1e-5, 1e-5));
  for (int64_t d = 0; d < size; ++d) {
    double wanted = 0, scale = 0;
    for (size_t i = 0; i < rows.size(); ++i) {
      const double part = weights[i] / with_sink * rows[i].first->at(rows[i].second, d, size);
      wanted += part, scale += std::abs(part);
    }
    CHECK(near(double(host::widen(call.o[size_t((t * heads + h) * size + d)])), wanted, rounding<T>, scale * rounding<T> + 2e-6));
  }
}

template <class T>
void agrees(const Table& kernels, const Sizes& sizes) {
  Attention<T> attention(sizes);
  attention.run(kernels);
  for (int64_t h = 0; h < sizes.heads; ++h) {
    for (int64_t t = 0; t < 5; ++t) check(attention, t, h);
    CHECK(attention.lse[size_t(5 * sizes.heads + h)] == -INFINITY);
    for (int64_t d = 0; d < sizes.size; ++d) CHECK(host::widen(attention.o[size_t((5 * sizes.heads + h) * sizes.size + d)]) == 0);
  }
}

template <class T>
void same_for_any_threads(const Table& kernels) {
  Attention<T> attention({16, 64, 128, 1, 0, false, true});
  same_on_any_threads([&] {
    attention.run(kernels);
    return bytes(attention.o, attention.lse);
  });
}

}  // namespace

TEST(sparse_attention_of_any_size) {
  for (const Sizes& sizes : {Sizes{1, 1, 1, 0, 0, false, false}, Sizes{3, 33, 128, 4, 7, true, true}, Sizes{17, 64, 12, 1, 0, false, true},
                             Sizes{64, 96, 128, 4, 70, true, false}, Sizes{16, 256, 64, 16, 0, false, true}}) {
    agrees<float>(kernels, sizes);
    agrees<bfloat16>(kernels, sizes);
  }
}

TEST(sparse_attention_is_the_same_for_any_threads) {
  same_for_any_threads<float>(kernels);
  same_for_any_threads<bfloat16>(kernels);
}

TEST(sparse_attention_does_not_see_what_it_should_not) {
  Attention<float> attention({4, 32, 12, 4, 6, true, true});
  const float nan = std::nanf("");
  std::vector<bool> seen(size_t(attention.window.count() * attention.window.page));
  for (int64_t t = 0; t < 5; ++t)
    for (const auto& [cache, row] : attention.seen(t))
      if (cache == &attention.window) seen[row] = true;
  for (size_t row = 0; row < seen.size(); ++row)
    if (!seen[row]) std::fill_n(attention.window.pages.data() + row * 32, 32, nan);
  attention.run(kernels);
  for (int64_t t = 0; t < 5; ++t) check(attention, t, t % 4);
}

TEST(sparse_attention_refuses_what_is_outside) {
  for (const int32_t page : {-1, 1 << 30}) {
    Attention<float> attention({4, 32, 12, 0, 0, false, true});
    std::fill_n(attention.window.table.data(), attention.window.table.size(), page);
    CHECK(refused([&] { attention.run(kernels); }));
  }
}

TEST(sparse_attention_refuses_sequences_that_do_not_follow_one_another) {
  for (const auto& [first, end] : {std::pair{1, 1}, {-1, 1}, {1, 0}, {0, -1}, {0, 1 << 30}}) {
    Attention<float> attention({4, 32, 12, 0, 0, false, true});
    int32_t* cu_seqlens = attention.batch.cu_seqlens.data();
    cu_seqlens[0] = first, cu_seqlens[attention.batch.sequences] = end;
    CHECK(refused([&] { attention.run(kernels); }));
  }
}

}  // namespace deepport::test
