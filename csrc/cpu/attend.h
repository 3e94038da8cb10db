// Attention of one token over a part of what it sees.
#pragma once

#include <atomic>

#include "pack.h"
#include "scratch.h"
#include "sight.h"
#include "simd/math.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

// Attention over some entries: o [rows, width] = sum_s 2^(s - peak) kv_s, total = sum_s 2^(s - peak).
struct Partial {
  float *o, *peak, *total;

  static int64_t floats(int64_t rows, int64_t width) { return rows * (width + 2); }
  Partial(float* memory, int64_t rows, int64_t width) : o(memory), peak(o + rows * width), total(peak + rows) {}
};

struct Queries;
struct Keys;
struct Values;
struct Scores;
struct Weights;
struct Found;

// Entries' rows as factors of both products, and what is between the two.
template <class T>
class Worker {
  using F = Factor<T>;

 public:
  explicit Worker(const Call<T>& call, std::atomic<bool>& outside)
      : call_(call), outside_(outside), rows_(call.rows()), width_(call.width()) {
    queries_ = Scratch<Queries>::template get<F>(rows_ * width_);
    keys_ = Scratch<Keys>::template get<F>(block * width_);
    values_ = Scratch<Values>::template get<F>(most_entries * width_);
    scores_ = Scratch<Scores>::template get<float>(most_entries * rows_);
    weights_ = Scratch<Weights>::template get<F>(most_entries * rows_);
    found_ = Scratch<Found>::template get<const T*>(most_entries);
  }

  // Attention of token t over its entries [begin, end).
  void attend(int64_t t, const Sight<T>& sight, int64_t begin, int64_t end, const Partial& to) {
    if (t != token_) pack_transposed(call_.q + t * call_.heads * call_.size, call_.heads, call_.size, queries_);
    token_ = t;
    const int64_t n = end - begin, padded = whole(n, block);
    sight.find(begin, end, found_);
    for (int64_t s = 0; s < padded; s += block) {
      read(found_ + s, std::min(block, n - s));
      product(keys_, width_, block, queries_, rows_, width_, scores_ + s * rows_, rows_);
      pack_rows(keys_, block, width_, values_, padded, s);
    }
    for (int64_t h = 0; h < rows_; h += Vec::lanes) weigh(h, n, padded, to);
    for (int64_t j = 0; j < width_; j += 32)
      product(weights_, padded, rows_, values_ + j * padded, 32, padded, to.o + j, width_);
  }

 private:
  void read(const T* const* from, int64_t n) {
    for (int64_t i = 0; i < block; ++i) {
      const T* row = i < n ? from[i] : nullptr;
      if (i < n && row == nullptr) outside_ = true;
      copy_row(row, row ? call_.size : 0, keys_ + i * width_, width_);
    }
  }

  // From the scores of `lanes` heads to weights.
  void weigh(int64_t h, int64_t n, int64_t padded, const Partial& to) {
    const Vec scale = splat(call_.scale * 1.44269504f);
    Vec peak = splat(-__builtin_inff()), total = zero();
    for (int64_t s = 0; s < n; ++s) peak = most(peak, load(scores_ + s * rows_ + h) * scale);
    const Vec shift = most(splat(-3e38f), peak);  // where all scores are -inf
    for (int64_t s = 0; s < padded; s += Vec::lanes) {
      Vec weights[Vec::lanes];
      for (int64_t i = 0; i < Vec::lanes; ++i) {
        weights[i] = s + i < n ? exp2(load(scores_ + (s + i) * rows_ + h) * scale - shift) : zero();
        total = total + weights[i];
      }
      transpose(weights);
      for (int64_t i = 0; i < Vec::lanes; ++i) store_normal(weights_ + (h + i) * padded + s, weights[i]);
    }
    store(to.peak + h, peak);
    store(to.total + h, total);
  }

  const Call<T>& call_;
  std::atomic<bool>& outside_;
  int64_t rows_, width_, token_ = -1;
  F *queries_, *keys_, *values_, *weights_;
  float* scores_;
  const T** found_;
};

}  // namespace
}  // namespace deepport::DEEPPORT_LEVEL
