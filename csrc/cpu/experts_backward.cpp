#include "element.h"
#include "experts.h"
#include "order.h"
#include "pack.h"
#include "parallel.h"
#include "scratch.h"
#include "simd/math.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

struct Sorted;
struct Expert;
struct Dots;
struct Totals;
struct Zeros;
struct Panels;
struct Pointers;
struct Products;

constexpr int64_t block = 32;  // columns at a time

// What one expert's gradients are computed from, as factors, sizes whole: its n copies' rows, m with those that fill the last block.
template <class F>
struct Factors {
  int64_t n, m, width, hidden;
  F *x, *grad;          // [m, width]
  F *w13, *w2;          // [2 hidden, width], [width, hidden]
  F *b, *b_turned;      // [m, 2 hidden], [2 hidden, m]: gradients of swiglu's arguments
  F* h_turned;          // [hidden, m]: h times weights

  Factors(int64_t copies, int64_t columns, int64_t channels)
      : n(copies), m(whole(copies, block)), width(whole(columns, block)), hidden(whole(channels, block)) {
    F** all[] = {&x, &grad, &w13, &w2, &b, &b_turned, &h_turned};
    const int64_t sizes[] = {m * width, m * width, 2 * hidden * width, width * hidden, 2 * hidden * m, 2 * hidden * m, hidden * m};
    int64_t total = 0;
    for (int64_t size : sizes) total += size;
    F* room = Scratch<Expert>::get<F>(total);
    for (int i = 0; i < 7; room += sizes[i++]) *all[i] = room;
  }
};

// The columns [column, column + 32) of a matrix [k, stride], as panels.
template <class F>
const F* panels_of(const F* matrix, int64_t k, int64_t stride, int64_t column) {
  const F** rows = Scratch<Pointers>::get<const F*>(k);
  for (int64_t i = 0; i < k; ++i) rows[i] = matrix + i * stride;
  F* panels = Scratch<Panels>::get<F>(k * block);
  pack_values(rows, k, column, panels);
  return panels;
}

// One call of moe_experts_backward: one expert after another, each one's columns shared out among threads.
template <class T>
struct Backward {
  using F = Factor<T>;

  const T *grad, *x, *w13, *w2;
  const float* weights;
  T* dx;
  float* dweights;
  T *dw13, *dw2;
  int64_t tokens, k, experts, width, hidden;
  float limit;
  float* total = nullptr;  // dx in float32

  void run(const int32_t* ids) {
    const int64_t copies = tokens * k;
    const Order sorted(Scratch<Sorted>::get<int32_t>(Order::size(copies, experts)), ids, copies, experts);
    const int32_t* offsets = sorted.offsets;
    total = Scratch<Totals>::get<float>(tokens * width);
    std::fill_n(total, tokens * width, 0.0f);
    std::fill_n(dweights, copies, 0.0f);
    for (int64_t e = 0; e < experts; ++e) {
      if (offsets[e] < offsets[e + 1])
        expert(e, sorted.order + offsets[e], offsets[e + 1] - offsets[e]);
      else
        untouched(e);
    }
    parallel(tokens, 64, [&](int64_t begin, int64_t end) {
      each((end - begin) * width, [&](int64_t i, auto access) { access.put(dx + begin * width + i, access.get(total + begin * width + i)); });
    });
  }

 private:
  void untouched(int64_t e) {
    if (dw13) std::fill_n(dw13 + e * 2 * hidden * width, 2 * hidden * width, T{});
    if (dw2) std::fill_n(dw2 + e * width * hidden, width * hidden, T{});
  }

  // `copies` are the numbers of the expert's n.
  void expert(int64_t e, const int32_t* copies, int64_t n) {
    const Factors<F> f(n, width, hidden);
    gather(e, copies, f);
    const int64_t blocks = f.hidden / block;
    float* dots = Scratch<Dots>::get<float>(blocks * f.m);
    parallel(blocks, 1, [&](int64_t begin, int64_t end) {
      const Tiles tiles;
      for (int64_t i = begin; i < end; ++i) activate(f, copies, i * block, dots + i * f.m);
    });
    for (int64_t r = 0; r < n; ++r)
      for (int64_t i = 0; i < blocks; ++i) dweights[copies[r]] += dots[i * f.m + r];
    parallel(f.width / block, 1, [&](int64_t begin, int64_t end) {
      const Tiles tiles;
      for (int64_t c = begin * block; c < end * block; c += block) {
        of_tokens(f, copies, c);
        if (dw13) of_w13(f, e, c);
        if (dw2) of_w2(f, e, c);
      }
    });
  }

  // Copies the rows of the expert's matrices and of its copies, filled up with 0.
  void gather(int64_t e, const int32_t* copies, const Factors<F>& f) {
    const T* zeros = zero_row();
    const auto rows = [&](int64_t count, int64_t padded, int64_t from, F* to, auto&& row) {
      const int64_t stride = whole(from, block);
      parallel(padded, 64, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) copy_row(r < count ? row(r) : zeros, from, to + r * stride, stride);
      });
    };
    rows(f.n, f.m, width, f.x, [&](int64_t r) { return x + copies[r] / k * width; });
    rows(f.n, f.m, width, f.grad, [&](int64_t r) { return grad + copies[r] / k * width; });
    const T* first = w13 + e * 2 * hidden * width;
    rows(hidden, f.hidden, width, f.w13, [&](int64_t r) { return first + r * width; });
    rows(hidden, f.hidden, width, f.w13 + f.hidden * f.width, [&](int64_t r) { return first + (hidden + r) * width; });
    rows(width, f.width, hidden, f.w2, [&](int64_t r) { return w2 + (e * width + r) * hidden; });
  }

  const T* zero_row() const {
    const int64_t size = std::max(width, hidden);
    T* zeros = Scratch<Zeros>::get<T>(size);
    std::fill_n(zeros, size, T{});
    return zeros;
  }

  // The channels [i, i + 32) of the hidden rows, and their parts of d . h.
  void activate(const Factors<F>& f, const int32_t* copies, int64_t i, float* dots) {
    float *gate = Scratch<Products>::get<float>(3 * f.m * block), *up = gate + f.m * block, *d = up + f.m * block;
    F* panels = Scratch<Panels>::get<F>(f.width * block);
    for (const auto& [first, to] : {std::pair{i, gate}, {f.hidden + i, up}}) {
      pack_transposed(f.w13 + first * f.width, block, f.width, panels);
      product(f.x, f.width, f.m, panels, block, f.width, to, block);
    }
    product(f.grad, f.width, f.m, panels_of(f.w2, f.width, f.hidden, i), block, f.width, d, block);
    std::fill_n(dots, f.m, 0.0f);
    for (int64_t r = 0; r < f.m; r += Vec::lanes)
      for (int64_t j = 0; j < block; j += Vec::lanes) differentiate(f, copies, r, i + j, gate + r * block + j, dots + r);
  }

  // `lanes` rows from r on by as many channels from i on. `gate` [m, 32] is followed by what is up's and d.
  void differentiate(const Factors<F>& f, const int32_t* copies, int64_t r, int64_t i, const float* gate, float* dots) {
    const float *up = gate + f.m * block, *d = up + f.m * block;
    Vec h[Vec::lanes], dgate[Vec::lanes], dup[Vec::lanes];
    for (int64_t j = 0; j < Vec::lanes; ++j) {
      const Vec g = load(gate + j * block), u = load(up + j * block), bound = splat(limit);
      const Vec cut = least(bound, g), clamped = most(zero() - bound, least(bound, u));
      const Vec s = sigmoid(cut), activated = cut * s;
      const Vec weight = splat(r + j < f.n ? weights[copies[r + j]] : 0), dh = weight * load(d + j * block);
      dots[j] += sum(load(d + j * block) * activated * clamped);
      h[j] = weight * activated * clamped;
      dgate[j] = where_at_most(g, bound, dh * clamped * s * (splat(1) + cut * (splat(1) - s)));
      dup[j] = where_at_most(u, bound, where_at_most(zero() - bound, u, dh * activated));
      store(f.b + (r + j) * 2 * f.hidden + i, dgate[j]);
      store(f.b + (r + j) * 2 * f.hidden + f.hidden + i, dup[j]);
    }
    store_turned(h, f.h_turned + i * f.m + r, f.m);
    store_turned(dgate, f.b_turned + i * f.m + r, f.m);
    store_turned(dup, f.b_turned + (f.hidden + i) * f.m + r, f.m);
  }

  static void store_turned(Vec (&x)[Vec::lanes], F* to, int64_t stride) {
    transpose(x);
    for (int64_t j = 0; j < Vec::lanes; ++j) store(to + j * stride, x[j]);
  }

  // The columns [c, c + 32) of dx.
  void of_tokens(const Factors<F>& f, const int32_t* copies, int64_t c) {
    float* sums = Scratch<Products>::get<float>(f.m * block);
    product(f.b, 2 * f.hidden, f.m, panels_of(f.w13, 2 * f.hidden, f.width, c), block, 2 * f.hidden, sums, block);
    for (int64_t r = 0; r < f.n; ++r) {
      float* to = total + copies[r] / k * width + c;
      each(std::min(block, width - c), [&](int64_t j, auto access) { access.put(to + j, access.get(to + j) + access.get(sums + r * block + j)); });
    }
  }

  // The same columns of dw13.
  void of_w13(const Factors<F>& f, int64_t e, int64_t c) {
    float* sums = Scratch<Products>::get<float>(2 * f.hidden * block);
    product(f.b_turned, f.m, 2 * f.hidden, panels_of(f.x, f.m, f.width, c), block, f.m, sums, block);
    for (int64_t r = 0; r < 2 * hidden; ++r) {
      const float* from = sums + (r < hidden ? r : f.hidden + r - hidden) * block;
      T* to = dw13 + (e * 2 * hidden + r) * width + c;
      each(std::min(block, width - c), [&](int64_t j, auto access) { access.put(to + j, access.get(from + j)); });
    }
  }

  // The rows [c, c + 32) of dw2.
  void of_w2(const Factors<F>& f, int64_t e, int64_t c) {
    float* sums = Scratch<Products>::get<float>(f.hidden * block);
    product(f.h_turned, f.m, f.hidden, panels_of(f.grad, f.m, f.width, c), block, f.m, sums, block);
    for (int64_t i = 0; i < hidden; i += Vec::lanes)
      for (int64_t j = 0; j < std::min(block, width - c); j += Vec::lanes) {
        Vec rows[Vec::lanes];
        for (int64_t r = 0; r < Vec::lanes; ++r) rows[r] = load(sums + (i + r) * block + j);
        transpose(rows);
        T* to = dw2 + (e * width + c + j) * hidden + i;
        for (int64_t r = 0; r < std::min<int64_t>(Vec::lanes, width - c - j); ++r)
          each(std::min<int64_t>(Vec::lanes, hidden - i), [&](int64_t, auto access) { access.put(to + r * hidden, rows[r]); });
      }
  }
};

}  // namespace

void moe_experts_backward(const void* grad, const void* x, const int32_t* ids, const float* weights, const void* w13, const void* w2,
                          void* dx, float* dweights, void* dw13, void* dw2, Type type, int64_t tokens, int64_t k, int64_t experts,
                          int64_t width, int64_t hidden, float limit) {
  visit(type, [&](auto element) {
    using T = decltype(element);
    const auto in = [](const void* p) { return static_cast<const T*>(p); };
    const auto out = [](void* p) { return static_cast<T*>(p); };
    Backward<T>{in(grad), in(x), in(w13), in(w2), weights, out(dx), dweights, out(dw13), out(dw2), tokens, k, experts, width, hidden, limit}
        .run(ids);
  });
}

}  // namespace deepport::DEEPPORT_LEVEL
