#include <map>

#include "attention.h"
#include "gradients.h"

namespace deepport::test {
namespace {

// A call and its gradients; those of the caches begin at 1, for they are added to.
template <class T>
struct Backward : Attention<T> {
  Guarded<T> grad, dq;
  Guarded<float> dwindow, dcompressed, dsink;

  explicit Backward(const Sizes& s)
      : Attention<T>(s), grad(normal<T>(this->generator, this->q.size())), dq(this->q.size()), dwindow(this->window.pages.size()),
        dcompressed(this->compressed.pages.size()), dsink(this->sink.size()) {}

  void run(const Table& kernels) {
    const auto& [heads, size, window_size, ratio, selected, chosen, sinks] = this->sizes;
    std::fill_n(dwindow.data(), dwindow.size(), 1.0f);
    std::fill_n(dcompressed.data(), dcompressed.size(), 1.0f);
    kernels.sparse_attention_backward(
        grad.data(), this->q.data(), this->window.pages.data(), this->window.table.data(), ratio ? this->compressed.pages.data() : nullptr,
        this->compressed.table.data(), chosen ? this->indices.data() : nullptr, sinks ? this->sink.data() : nullptr,
        this->batch.positions.data(), this->batch.cu_seqlens.data(), dq.data(), dwindow.data(), dcompressed.data(), sinks ? dsink.data() : nullptr,
        type_of<T>, this->batch.tokens, heads, size, this->batch.sequences, this->window.count(), this->window.page,
        this->window.columns, this->compressed.count(), this->compressed.page, this->compressed.columns, selected,
        1 / std::sqrt(float(size)), window_size, ratio);
  }
};

// The same in float64, by the formulas of attention.h.
template <class T>
struct Wanted {
  const Backward<T>& call;
  std::vector<Total> q, sink;
  std::map<std::pair<const Cache<T>*, size_t>, Total> entries;  // by number

  explicit Wanted(const Backward<T>& of) : call(of), q(of.q.size()), sink(of.sink.size()) {
    for (int64_t t = 0; t < 5; ++t)
      for (int64_t h = 0; h < call.sizes.heads; ++h) add(t, h);
  }

  void add(int64_t t, int64_t h) {
    const int64_t size = call.sizes.size, at = (t * call.sizes.heads + h) * size;
    const double scale = 1 / std::sqrt(double(size)), sunk = call.sizes.sink ? std::exp(double(call.sink[size_t(h)])) : 0;
    const auto rows = call.seen(t);
    std::vector<double> p, products;
    double total = sunk, mean = 0;
    for (const auto& entry : rows) {
      p.push_back(std::exp(scale * call.product(call.q, t, h, entry)));
      products.push_back(call.product(call.grad, t, h, entry));
      total += p.back();
    }
    for (size_t i = 0; i < rows.size(); ++i) mean += (p[i] /= total) * products[i];
    sink[size_t(h)].add(-sunk / total * mean);
    for (size_t i = 0; i < rows.size(); ++i) {
      const double g = scale * p[i] * (products[i] - mean);
      for (int64_t d = 0; d < size; ++d) {
        const auto number = size_t(at + d), place = rows[i].second * size_t(size) + size_t(d);
        q[number].add(g * rows[i].first->at(rows[i].second, d, size));
        Total& entry = entries[{rows[i].first, place}];
        entry.add(g * double(host::widen(call.q[number])));
        entry.add(p[i] * double(host::widen(call.grad[number])));
      }
    }
  }

  // In float32, but for a rounding at the end.
  static void check(double found, const Total& wanted, double once) { CHECK(near(found, wanted.value, once, 4e-6 * (1 + wanted.size))); }

  void check() const {
    for (size_t i = 0; i < q.size(); ++i) check(double(host::widen(call.dq[i])), q[i], rounding<T>);
    for (size_t i = 0; i < sink.size() && call.sizes.sink; ++i) check(double(call.dsink[i]), sink[i], rounding<float>);
    check(call.window, call.dwindow);
    check(call.compressed, call.dcompressed);
  }

  void check(const Cache<T>& cache, const Guarded<float>& gradient) const {
    for (size_t i = 0; i < gradient.size(); ++i) {
      const auto found = entries.find({&cache, i});
      if (found == entries.end())
        CHECK(gradient[i] == 1);
      else
        check(double(gradient[i]) - 1, found->second, rounding<float>);
    }
  }
};

template <class T>
void agrees(const Table& kernels, const Sizes& sizes) {
  Backward<T> call(sizes);
  call.run(kernels);
  Wanted<T>(call).check();
}

}  // namespace

TEST(sparse_attention_backward_of_any_size) {
  for (const Sizes& sizes : {Sizes{1, 1, 1, 0, 0, false, false}, Sizes{3, 33, 128, 4, 7, true, true}, Sizes{17, 64, 12, 1, 0, false, true},
                             Sizes{64, 96, 128, 4, 70, true, false}, Sizes{16, 256, 64, 16, 0, false, true}}) {
    agrees<float>(kernels, sizes);
    agrees<bfloat16>(kernels, sizes);
  }
}

TEST(sparse_attention_backward_is_the_same_for_any_threads) {
  Backward<bfloat16> call({16, 128, 128, 1, 0, false, true});
  same_on_any_threads([&] {
    call.run(kernels);
    return bytes(call.dq, call.dwindow, call.dcompressed, call.dsink);
  });
}

TEST(sparse_attention_backward_refuses_what_is_outside) {
  for (const int32_t page : {-1, 1 << 30}) {
    Backward<float> call({4, 32, 12, 0, 0, false, true});
    std::fill_n(call.window.table.data(), call.window.table.size(), page);
    CHECK(refused([&] { call.run(kernels); }));
  }
  for (const int64_t position : {int64_t(1) << 40, int64_t(305)}) {
    Backward<float> call({4, 32, 1 << 20, 4, 0, false, true});
    call.batch.positions[2] = position;
    CHECK(refused([&] { call.run(kernels); }));
  }
}

}  // namespace deepport::test
