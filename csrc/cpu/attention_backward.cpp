#include "attention.h"
#include "entries.h"
#include "parallel.h"
#include "simd/math.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

struct Columns;
struct Scores;
struct Turned;
struct Panels;
struct Products;
struct Rows;
struct Pointers;
struct Places;
struct Begins;
struct Sunk;
struct Coefficients;

// What `coefficients` of some tokens may hold: of one token more, if it has more.
constexpr int64_t most_coefficients = 1 << 22;

// That of o, and where the others go; the sink's [tokens, heads] in parts.
template <class T>
struct Gradients {
  const T* o;
  T* q;
  float *window, *compressed, *sink;
};

// A token's q and gradient of o lie side by side: 2 rows() columns of scores, and as many rows of what an entry's gradient is the
// sum of.
template <class T>
int64_t across(const Call<T>& call) { return 2 * call.rows(); }

// Coefficients are float32: as factors of bfloat16 they are two numbers, which lie `apart` in a matrix each.
template <class F>
constexpr int64_t numbers = std::is_same_v<F, float> ? 1 : 2;

template <class F>
void store_numbers(F* to, [[maybe_unused]] int64_t apart, Vec x) {
  store(to, x);
  if constexpr (numbers<F> == 2) store(to + apart, x - load(to));
}

// c [m, 32] = a b of such a matrix.
template <class F>
void product_of_numbers(const F* a, int64_t lda, int64_t m, [[maybe_unused]] int64_t apart, const F* panels, int64_t k, float* c) {
  product(a, lda, m, panels, 32, k, c, 32);
  if constexpr (numbers<F> == 2) product<Sum::added>(a + apart, lda, m, panels, k * panel_columns, 32, k, c, 32);
}

// The first half: from a token's entries to its q's gradient, and the coefficients [entries, across] of the entries' own.
template <class T>
class Token {
  using F = Factor<T>;

 public:
  Token(const Call<T>& call, const Gradients<T>& gradients, std::atomic<bool>& outside)
      : call_(call), gradients_(gradients), entries_(call, outside), rows_(call.rows()), width_(call.width()) {
    columns_ = Scratch<Columns>::get<F>(across(call) * width_);
  }

  void differentiate(int64_t t, F* coefficients) {
    const Sight<T> sight(call_, t);
    const int64_t n = sight.count(), padded = entries_.find(sight, 0, n);
    score(t, padded);
    turned_ = Scratch<Turned>::get<F>(numbers<F> * rows_ * padded);
    for (int64_t h = 0; h < rows_; h += Vec::lanes) weigh(t, h, n, padded, coefficients);
    float* sums = Scratch<Products>::get<float>(rows_ * 32);
    F* panels = Scratch<Panels>::get<F>(32 * padded);
    for (int64_t j = 0; j < width_; j += 32) {
      pack_values(entries_.rows(), padded, j, panels);
      product_of_numbers(turned_, padded, rows_, rows_ * padded, panels, padded, sums);
      for (int64_t h = 0; h < call_.heads; ++h) {
        T* to = gradients_.q + (t * call_.heads + h) * call_.size + j;
        each(std::min<int64_t>(32, call_.size - j), [&](int64_t i, auto access) { access.put(to + i, access.get(sums + h * 32 + i)); });
      }
    }
  }

 private:
  // scores [padded, across]: of each entry, its products with q and with the gradient of o.
  void score(int64_t t, int64_t padded) {
    const int64_t at = t * call_.heads * call_.size, n = across(call_);
    pack_transposed(call_.q + at, call_.heads, call_.size, columns_);
    pack_transposed(gradients_.o + at, call_.heads, call_.size, columns_ + rows_ * width_);
    scores_ = Scratch<Scores>::get<float>(padded * n);
    for (int64_t s = 0; s < padded; s += block) product(entries_.keys(s), width_, block, columns_, n, width_, scores_ + s * n, n);
  }

  // From the scores of `lanes` heads to coefficients: g of q, p of the gradient of o.
  void weigh(int64_t t, int64_t h, int64_t n, int64_t padded, F* coefficients) {
    constexpr float log2e = 1.44269504f;
    const int64_t left = std::min<int64_t>(call_.heads - h, Vec::lanes), stride = across(call_);
    const Vec scale = splat(call_.scale * log2e);
    const Vec sink = call_.sink ? load_lanes(call_.sink + h, left) * splat(log2e) : splat(-__builtin_inff());
    float* scores = scores_ + h;
    Vec peak = sink;
    for (int64_t s = 0; s < n; ++s) peak = most(peak, load(scores + s * stride) * scale);
    peak = most(splat(-3e38f), peak);
    const Vec sunk = exp2(sink - peak);
    Vec total = sunk, mean = zero();
    for (int64_t s = 0; s < n; ++s) {
      const Vec weight = exp2(load(scores + s * stride) * scale - peak);
      total = total + weight;
      mean = fma(weight, load(scores + s * stride + rows_), mean);
      store(scores + s * stride, weight);
    }
    const Vec share = splat(1.0f) / most(splat(1e-38f), total);
    mean = mean * share;
    if (left > 0) store_lanes(gradients_.sink + t * call_.heads + h, zero() - sunk * share * mean, left);
    for (int64_t s = 0; s < padded; s += Vec::lanes) {
      Vec g[Vec::lanes];
      for (int64_t i = 0; i < Vec::lanes; ++i) {
        const int64_t at = (s + i) * stride + h;
        const Vec p = s + i < n ? load(scores_ + at) * share : zero();
        g[i] = s + i < n ? p * (load(scores_ + at + rows_) - mean) * splat(call_.scale) : zero();
        store_numbers(coefficients + at, padded * stride, g[i]);
        store_numbers(coefficients + at + rows_, padded * stride, p);
      }
      transpose(g);
      for (int64_t i = 0; i < Vec::lanes; ++i) store_numbers(turned_ + (h + i) * padded + s, rows_ * padded, g[i]);
    }
  }

  static Vec load_lanes(const float* p, int64_t n) { return n == Vec::lanes ? load(p) : n > 0 ? load_part(p, n) : zero(); }
  static void store_lanes(float* p, Vec x, int64_t n) { n == Vec::lanes ? store(p, x) : store_part(p, x, n); }

  const Call<T>& call_;
  const Gradients<T>& gradients_;
  Entries<T> entries_;
  int64_t rows_, width_;
  F *columns_, *turned_ = nullptr;
  float* scores_ = nullptr;
};

// The second half: the columns [first, last) of the gradients of a token's entries.
template <class T>
void scatter(const Call<T>& call, const Gradients<T>& gradients, int64_t t, const Factor<T>* coefficients, int64_t first, int64_t last) {
  using F = Factor<T>;
  const Sight<T> sight(call, t);
  const int64_t n = sight.count(), rows = call.rows(), width = call.width(), k = across(call);
  const T** places = Scratch<Places>::get<const T*>(n);
  sight.find(0, n, places);
  F* factors = Scratch<Rows>::get<F>(k * width);
  const F** pointers = Scratch<Pointers>::get<const F*>(k);
  std::memset(factors, 0, size_t(k * width) * sizeof(F));
  for (int64_t h = 0; h < k; ++h) pointers[h] = factors + h * width;
  for (int64_t h = 0; h < call.heads; ++h) {
    const int64_t at = (t * call.heads + h) * call.size;
    copy_row(call.q + at, call.size, factors + h * width, width);
    copy_row(gradients.o + at, call.size, factors + (rows + h) * width, width);
  }
  const int64_t padded = whole(n, block);
  F* panels = Scratch<Panels>::get<F>(32 * k);
  float* sums = Scratch<Products>::get<float>(padded * 32);
  for (int64_t j = first; j < last; j += 32) {
    pack_values(pointers, k, j, panels);
    product_of_numbers(coefficients, k, padded, padded * k, panels, k, sums);
    for (int64_t i = 0; i < n; ++i) {
      float* to = i < sight.near() ? gradients.window + (places[i] - call.window.pages)
                                   : gradients.compressed + (places[i] - call.compressed.pages);
      each(std::min<int64_t>(32, call.size - j), [&](int64_t d, auto access) {
        access.put(to + j + d, access.get(to + j + d) + access.get(sums + i * 32 + d));
      });
    }
  }
}

// Threads share out the tokens for the first half and the columns for the second: so a sum is made in the tokens' order.
template <class T>
void differentiate(const Call<T>& call, const Gradients<T>& gradients, int64_t tokens, std::atomic<bool>& outside) {
  using F = Factor<T>;
  const auto size = [&](int64_t t) { return numbers<F> * whole(Sight<T>(call, t).count(), block) * across(call); };
  for (int64_t t = 0; t < tokens; ++t) outside = outside || !Sight<T>(call, t).fits();
  for (int64_t begin = 0, end = 0; begin < tokens && !outside; begin = end) {
    int64_t total = size(end++);
    while (end < tokens && total + size(end) <= most_coefficients) total += size(end++);
    int64_t* first = Scratch<Begins>::get<int64_t>(end - begin);
    F* coefficients = Scratch<Coefficients>::get<F>(total);
    for (int64_t t = begin, at = 0; t < end; at += size(t++)) first[t - begin] = at;
    parallel(end - begin, 1, [&](int64_t low, int64_t high) {
      const Tiles tiles;
      Token<T> token(call, gradients, outside);
      for (int64_t i = low; i < high && !outside; ++i) token.differentiate(begin + i, coefficients + first[i]);
    });
    if (outside) return;
    parallel(call.width() / 32, 1, [&](int64_t low, int64_t high) {
      const Tiles tiles;
      for (int64_t i = 0; i < end - begin; ++i) scatter(call, gradients, begin + i, coefficients + first[i], 32 * low, 32 * high);
    });
  }
}

// sums[h] = sum_t parts[t, h], in the tokens' order.
void add_up(const float* parts, int64_t tokens, int64_t heads, float* sums) {
  double* wide = Scratch<Sunk>::get<double>(heads);
  std::fill_n(wide, heads, 0.0);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t h = 0; h < heads; ++h) wide[h] += double(parts[t * heads + h]);
  std::copy_n(wide, heads, sums);
}

}  // namespace

void sparse_attention_backward(const void* grad, const void* q, const void* window_pages, const int32_t* window_table,
                               const void* compressed_pages, const int32_t* compressed_table, const int32_t* indices,
                               const float* sink, const int64_t* positions, const int32_t* cu_seqlens, void* dq, float* dwindow,
                               float* dcompressed, float* dsink, Type type, int64_t tokens, int64_t heads, int64_t size,
                               int64_t sequences, int64_t window_count, int64_t window_page, int64_t window_columns,
                               int64_t compressed_count, int64_t compressed_page, int64_t compressed_columns, int64_t selected,
                               float scale, int64_t window_size, int64_t ratio) {
  visit(type, [&](auto element) {
    using T = decltype(element);
    const Call<T> call = call_of<T>(q, window_pages, window_table, compressed_pages, compressed_table, indices, sink, positions,
                                    cu_seqlens, heads, size, sequences, window_count, window_page, window_columns,
                                    compressed_count, compressed_page, compressed_columns, selected, scale, window_size, ratio);
    const Gradients<T> gradients{static_cast<const T*>(grad), static_cast<T*>(dq), dwindow, dcompressed,
                                 Scratch<Sunk>::get<float>(tokens * heads)};
    call.batch.check(tokens);
    const int64_t present = call.batch.rows();
    std::atomic<bool> outside{false};
    differentiate(call, gradients, present, outside);
    std::fill_n(gradients.q + present * heads * size, (tokens - present) * heads * size, T{});
    refuse(outside);
    if (dsink) add_up(gradients.sink, present, heads, dsink);
  });
}

}  // namespace deepport::DEEPPORT_LEVEL
