#include <algorithm>

#include "gradients.h"

namespace deepport::test {
namespace {

struct Sizes {
  size_t tokens, k, experts, width, hidden;
};

constexpr double limit = 1.5;

template <class T>
struct Backward {
  Sizes s;
  std::mt19937 generator;
  Guarded<T> grad, x, w13, w2, dx, dw13, dw2;
  Guarded<float> weights, dweights;
  Guarded<int32_t> ids;

  explicit Backward(const Sizes& of)
      : s(of), generator(unsigned(s.tokens * 1000 + s.width)), grad(normal<T>(generator, s.tokens * s.width)),
        x(normal<T>(generator, s.tokens * s.width)),
        w13(normal<T>(generator, s.experts * 2 * s.hidden * s.width, 1 / std::sqrt(float(s.width)))),
        w2(normal<T>(generator, s.experts * s.width * s.hidden, 1 / std::sqrt(float(s.hidden)))), dx(x.size()), dw13(w13.size()),
        dw2(w2.size()), weights(normal<float>(generator, s.tokens * s.k)), dweights(weights.size()), ids(weights.size()) {
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = int32_t(generator() % (s.experts + 1)) - 1;
  }

  void run(const Table& kernels, bool matrices = true) {
    kernels.moe_experts_backward(grad.data(), x.data(), ids.data(), weights.data(), w13.data(), w2.data(), dx.data(), dweights.data(),
                                 matrices ? dw13.data() : nullptr, matrices ? dw2.data() : nullptr, type_of<T>, int64_t(s.tokens),
                                 int64_t(s.k), int64_t(s.experts), int64_t(s.width), int64_t(s.hidden), float(limit));
  }
};

// The same in float64, by the formulas of experts.h.
template <class T>
struct Wanted {
  const Backward<T>& call;
  std::vector<Total> dx, dweights, dw13, dw2;

  explicit Wanted(const Backward<T>& of)
      : call(of), dx(of.dx.size()), dweights(of.dweights.size()), dw13(of.dw13.size()), dw2(of.dw2.size()) {
    for (size_t copy = 0; copy < call.ids.size(); ++copy)
      if (call.ids[copy] >= 0)
        for (size_t i = 0; i < call.s.hidden; ++i) add(copy, i);
  }

  static double at(const Guarded<T>& values, size_t i) { return double(host::widen(values[i])); }

  void add(size_t copy, size_t i) {
    const auto [tokens, k, experts, width, hidden] = call.s;
    const size_t e = size_t(call.ids[copy]), row = copy / k * width, gates = (2 * e * hidden + i) * width, ups = gates + hidden * width;
    double g = 0, u = 0;
    Total d;
    for (size_t c = 0; c < width; ++c) {
      g += at(call.w13, gates + c) * at(call.x, row + c);
      u += at(call.w13, ups + c) * at(call.x, row + c);
      d.add(at(call.w2, (e * width + c) * hidden + i) * at(call.grad, row + c));
    }
    const double weight = double(call.weights[copy]), cut = std::min(g, limit), clamped = std::clamp(u, -limit, limit);
    const double s = 1 / (1 + std::exp(-cut)), h = cut * s * clamped;
    const double dg = g <= limit ? weight * d.value * clamped * s * (1 + cut * (1 - s)) : 0;
    const double du = std::abs(u) <= limit ? weight * d.value * cut * s : 0;
    dweights[copy].add(d.value * h);
    dweights[copy].size += d.size * std::abs(h);
    for (size_t c = 0; c < width; ++c) {
      dw2[(e * width + c) * hidden + i].add(weight * h * at(call.grad, row + c));
      dw13[gates + c].add(dg * at(call.x, row + c));
      dw13[ups + c].add(du * at(call.x, row + c));
      dx[row + c].add(dg * at(call.w13, gates + c));
      dx[row + c].add(du * at(call.w13, ups + c));
    }
  }

  // Factors are rounded to T; where terms cancel, the error is that of larger ones.
  template <class G>
  static void check(const Guarded<G>& found, const std::vector<Total>& wanted, double rounded) {
    double most = 0;
    for (const Total& w : wanted) most = std::max(most, w.size);
    for (size_t i = 0; i < wanted.size(); ++i)
      CHECK(near(double(host::widen(found[i])), wanted[i].value, rounding<G>, rounded * most));
  }

  void check() const {
    constexpr double rounded = sizeof(T) == 2 ? 0x1p-7 : 0x1p-18;
    check(call.dx, dx, rounded);
    check(call.dweights, dweights, 0x1p-18);
    check(call.dw13, dw13, rounded);
    check(call.dw2, dw2, rounded);
  }
};

template <class T>
void agrees(const Table& kernels) {
  for (const Sizes& sizes : {Sizes{0, 2, 3, 32, 32}, Sizes{1, 1, 1, 1, 1}, Sizes{7, 2, 3, 96, 64}, Sizes{40, 3, 2, 72, 40}, Sizes{90, 2, 7, 34, 33}}) {
    Backward<T> call(sizes);
    call.run(kernels);
    Wanted<T>(call).check();
  }
}

}  // namespace

TEST(moe_experts_backward_of_any_size) {
  agrees<float>(kernels);
  agrees<bfloat16>(kernels);
}

TEST(moe_experts_backward_is_the_same_for_any_threads) {
  Backward<bfloat16> call({50, 2, 3, 160, 96});
  same_on_any_threads([&] {
    call.run(kernels);
    return bytes(call.dx, call.dweights, call.dw13, call.dw2);
  });
}

TEST(moe_experts_backward_without_matrices_gradients) {
  Backward<float> call({7, 2, 3, 96, 64});
  call.run(kernels, false);
  const std::vector<char> dx = bytes(call.dx);
  call.run(kernels);
  CHECK(bytes(call.dx) == dx);
}

}  // namespace deepport::test
