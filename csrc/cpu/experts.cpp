#include "experts.h"

#include "columns.h"
#include "dots.h"
#include "fours.h"
#include "groups.h"
#include "order.h"
#include "paged.h"
#include "scratch.h"
#include "weights.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

struct Gates;
struct Gathered;
struct Decoded;
struct Products;
struct Found;
struct Sorted;
struct Hidden;
struct Totals;
struct Spread;

// What a thread needs to multiply blocks of rows by columns.
template <class F>
struct Bench {
  explicit Bench(int64_t columns) : decoded(Scratch<Decoded>::template get<F>(2 * row_block * whole(columns, 32))) {}

  F* decoded;
  float* products = Scratch<Products>::get<float>(2 * row_block * column_block);

  // A block of rows from r on, of `left`.
  Rows<F> block(const Weights& w, int64_t expert, int64_t r, int64_t left, int second = 0) const {
    const int64_t room = row_block * whole(w.columns, 32);
    return rows(w, expert, r, std::min(left, row_block), row_block, decoded + second * room);
  }
};

// Less work than this many blocks, of one column each, is not worth a thread.
int64_t grain(int64_t columns) { return 17 * (1 + 65536 / (columns + 1)) / 8; }

template <class T, class F>
void multiply_groups(const T* x, const Weights& w, const int32_t* offsets, T* y, int64_t experts) {
  Group* groups = Scratch<Found>::get<Group>(experts + 1);
  const int64_t count = find_groups(offsets, experts, groups), blocks = whole(w.rows, row_block) / row_block;
  share(groups, count, blocks, grain(w.columns), [&](const Group& g, int64_t begin, int64_t end) {
    const Bench<F> bench(w.columns);
    F* room = Scratch<Gathered>::get<F>(Columns<F>::across(g.count) * whole(w.columns, 32));
    const auto row = [&](int64_t i) { return x + (g.begin + i) * w.columns; };
    const auto columns = gather(row, g.count, w.columns, g.count <= most_in_rows, room);
    for (int64_t r = begin * row_block; r < std::min(end * row_block, w.rows); r += row_block)
      multiply(bench.block(w, g.expert, r, w.rows - r), columns, bench.products, [&](int64_t m, int64_t i, Vec sums) {
        T* to = y + (g.begin + m) * w.rows + r + i;
        const int64_t left = w.rows - r - i;
        if (left >= Vec::lanes)
          store(to, sums);
        else if (left > 0)
          store_part(to, sums, left);
      });
  });
}

// One call of moe_experts.
template <class T, class F>
class Experts {
 public:
  Experts(const T* x, const float* weights, const Weights& w13, const Weights& w2, T* out, int64_t tokens, int64_t k, float limit)
      : x_(x), weights_(weights), w13_(w13), w2_(w2), out_(out), tokens_(tokens), k_(k), limit_(limit) {}

  void run(const int32_t* ids, int64_t experts) {
    sort(ids, experts);
    h_ = Scratch<Hidden>::get<F>(groups_[count_].place * whole(w2_.columns, 32));
    const int64_t blocks = whole(w2_.columns, row_block) / row_block;
    share(groups_, count_, blocks, grain(w13_.columns),
          [&](const Group& g, int64_t begin, int64_t end) { activate(g, begin, end); });
    const int64_t across = whole(w2_.rows, row_block) / row_block;
    parallel(across, 1 + 64 / (count_ + 1), [&](int64_t begin, int64_t end) {
      const Tiles tiles;
      combine(begin * row_block, std::min(end * row_block, w2_.rows));
    });
  }

 private:
  void sort(const int32_t* ids, int64_t experts) {
    const int64_t copies = tokens_ * k_;
    const Order sorted(Scratch<Sorted>::get<int32_t>(Order::size(copies, experts)), ids, copies, experts);
    groups_ = Scratch<Found>::get<Group>(experts + 1);
    count_ = find_groups(sorted.offsets, experts, groups_);
    order_ = sorted.order;
  }

  // Weights that are read where they lie (`by_dots`), and need no decoding, suit twice as many copies in rows.
  bool in_rows(const Group& g) const { return g.count <= (fast_pairs || w13_.scaled() ? 1 : 2) * most_in_rows; }

  Columns<F> hidden(const Group& g) const {
    const int64_t k = whole(w2_.columns, 32);
    return {h_ + g.place * k, g.count, k, in_rows(g)};
  }

  // Blocks [begin, end) of the hidden channels of a group.
  void activate(const Group& g, int64_t begin, int64_t end) {
    const Bench<F> bench(w13_.columns);
    F* room = Scratch<Gathered>::get<F>(Columns<F>::across(g.count) * whole(w13_.columns, 32));
    const auto row = [&](int64_t i) { return x_ + order_[g.begin + i] / k_ * w13_.columns; };
    const auto columns = gather(row, g.count, w13_.columns, in_rows(g), room);
    const int64_t half = w2_.columns;
    if constexpr (has_fours && std::is_same_v<F, Four>)
      if (columns.in_rows && in_fours<F>(w13_) && half % row_block == 0) {
        const auto factors = spread(columns.data, g.count, columns.k, Scratch<Spread>::get<F>(g.count * columns.k));
        for (int64_t r = begin * row_block; r < end * row_block; r += row_block)
          multiply_gated_few(fours(w13_, g.expert, r), fours(w13_, g.expert, half + r), factors, limit_, hidden(g), r);
        return;
      }
    if constexpr (!fast_pairs)
      if (columns.in_rows) return activate_few(g, begin * row_block, std::min(end * row_block, half), columns);
    for (int64_t r = begin * row_block; r < end * row_block; r += row_block) {
      const auto gate = bench.block(w13_, g.expert, r, half - r), up = bench.block(w13_, g.expert, half + r, half - r, 1);
      multiply_gated(gate, up, columns, limit_, hidden(g), r, bench.products);
    }
  }

  // The hidden channels [begin, end) of a group of few copies, by weights where they lie.
  void activate_few(const Group& g, int64_t begin, int64_t end, const Columns<float>& columns) {
    const int64_t count = end - begin, half = w2_.columns;
    const Weights w = w13_.from(g.expert);
    float* gates = Scratch<Gates>::get<float>(g.count * count);
    by_dots(w, begin, end, columns.data, columns.k, g.count, [&](int64_t t, int64_t n, const float* sums, int64_t some) {
      std::copy_n(sums, some, gates + t * count + n - begin);
    });
    const Columns<F> h = hidden(g);
    by_dots(w, half + begin, half + end, columns.data, columns.k, g.count, [&](int64_t t, int64_t n, const float* sums, int64_t some) {
      const int64_t channel = n - half;
      each(some, [&](int64_t i, auto access) {
        const Vec gate = access.get(gates + t * count + channel - begin + i);
        access.put_normal(h.data + t * h.k + channel + i, swiglu(gate, access.get(sums + i), splat(limit_)));
      });
    });
  }

  // The channels [begin, end) of all tokens' sums over their experts.
  void combine(int64_t begin, int64_t end) {
    const int64_t most = whole(std::max(262144 / (tokens_ + 1), (end - begin) / 4), row_block);
    const Bench<F> bench(w2_.columns);
    float* total = Scratch<Totals>::get<float>(tokens_ * most);
    for (int64_t c = begin; c < end; c += most) {
      const int64_t width = std::min(most, end - c);
      std::fill_n(total, tokens_ * most, 0.0f);
      for (int64_t g = 0; g < count_; ++g) add(groups_[g], c, width, bench, total, most);
      for (int64_t t = 0; t < tokens_; ++t)
        each(width, [&](int64_t i, auto access) { access.put(out_ + t * w2_.rows + c + i, access.get(total + t * most + i)); });
    }
  }

  // total[t] += weight * w2[c : c + width] h, for the copies of a group.
  void add(const Group& g, int64_t c, int64_t width, const Bench<F>& bench, float* total, int64_t stride) {
    const auto block = [&](int64_t r) {
      return [=](int64_t m, int64_t i, Vec sums) {
        const int32_t copy = order_[g.begin + m];
        float* to = total + copy / k_ * stride + r + i;
        store(to, fma(splat(weights_[copy]), sums, load(to)));
      };
    };
    const Columns<F> columns = hidden(g);
    if constexpr (has_fours && std::is_same_v<F, Four>)
      if (columns.in_rows && in_fours<F>(w2_) && w2_.rows % row_block == 0) {
        const auto factors = spread(columns.data, g.count, columns.k, Scratch<Spread>::get<F>(g.count * columns.k));
        for (int64_t r = 0; r < width; r += row_block) multiply_few(fours(w2_, g.expert, c + r), factors, block(r));
        return;
      }
    if constexpr (!fast_pairs)
      if (columns.in_rows) return add_few(g, c, width, columns, total, stride);
    for (int64_t r = 0; r < width; r += row_block)
      multiply(bench.block(w2_, g.expert, c + r, width - r), columns, bench.products, block(r));
  }

  // The same for few copies, by weights where they lie.
  void add_few(const Group& g, int64_t c, int64_t width, const Columns<float>& columns, float* total, int64_t stride) {
    by_dots(w2_.from(g.expert), c, c + width, columns.data, columns.k, g.count, [&](int64_t t, int64_t n, const float* sums, int64_t some) {
      const int32_t copy = order_[g.begin + t];
      float* to = total + copy / k_ * stride + n - c;
      each(some, [&](int64_t i, auto access) {
        access.put(to + i, fma(splat(weights_[copy]), access.get(sums + i), access.get(to + i)));
      });
    });
  }

  const T* x_;
  const float* weights_;
  const Weights &w13_, &w2_;
  T* out_;
  int64_t tokens_, k_;
  float limit_;
  Group* groups_ = nullptr;
  int64_t count_ = 0;
  const int32_t* order_ = nullptr;
  F* h_ = nullptr;
};

// Calls f with a number of activations' type and one of the type that they and weights of this format are multiplied as.
template <class F>
void with_factors(Type type, const Format& format, F&& f) {
  visit(type, [&](auto element) {
    using T = decltype(element);
    if (narrow_weights(format))
      f(T{}, Factor<T>{});
    else
      f(T{}, float{});
  });
}

}  // namespace

void grouped_linear(const void* x, const void* w, const void* scale, Format format, const int32_t* offsets, void* y, Type type,
                    int64_t count, int64_t experts, int64_t rows, int64_t columns) {
  Ragged{nullptr, offsets, experts}.check(count);
  const Weights weights{w, scale, format, rows, columns};
  with_factors(type, format, [&](auto element, auto factor) {
    using T = decltype(element);
    multiply_groups<T, decltype(factor)>(static_cast<const T*>(x), weights, offsets, static_cast<T*>(y), experts);
    std::fill(static_cast<T*>(y) + offsets[experts] * rows, static_cast<T*>(y) + count * rows, T{});
  });
}

void moe_experts(const void* x, const int32_t* ids, const float* weights, const void* w13, const void* w13_scale, const void* w2,
                 const void* w2_scale, Format format, void* out, Type type, int64_t tokens, int64_t k, int64_t experts,
                 int64_t width, int64_t hidden, float limit) {
  const Weights first{w13, w13_scale, format, 2 * hidden, width}, second{w2, w2_scale, format, width, hidden};
  with_factors(type, format, [&](auto element, auto factor) {
    using T = decltype(element);
    Experts<T, decltype(factor)>(static_cast<const T*>(x), weights, first, second, static_cast<T*>(out), tokens, k, limit)
        .run(ids, experts);
  });
}

}  // namespace deepport::DEEPPORT_LEVEL
