// Attention of one token over a part of what it sees.
#pragma once

#include "entries.h"
#include "partial.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

struct Queries;
struct Panels;
struct Scores;
struct Weights;
struct Sums;

// Two products and what is between them. An entry is read where it lies, once for the scores of all heads and, soon after, once as
// a value.
template <class T>
class Worker {
  using F = Factor<T>;

 public:
  Worker(const Call<T>& call, std::atomic<bool>& outside)
      : call_(call), entries_(call, outside), rows_(call.rows()), width_(call.width()) {
    queries_ = Scratch<Queries>::template get<F>(rows_ * width_);
    panels_ = Scratch<Panels>::template get<F>(32 * most_entries);
    scores_ = Scratch<Scores>::template get<float>(most_entries * rows_);
    weights_ = Scratch<Weights>::template get<F>(most_entries * rows_);
    sums_ = Scratch<Sums>::template get<float>(Partial::floats(rows_, 32));
  }

  // Attention of token t over its entries [begin, end): instead of what `to` holds, or joined to it.
  void attend(int64_t t, const Sight<T>& sight, int64_t begin, int64_t end, const Partial& to, bool joined) {
    if (t != token_) pack_transposed(call_.q + t * call_.heads * call_.size, call_.heads, call_.size, queries_);
    token_ = t;
    const int64_t n = end - begin, padded = entries_.find(sight, begin, end);
    for (int64_t s = 0; s < padded; s += block)
      product(entries_.keys(s), width_, block, queries_, rows_, width_, scores_ + s * rows_, rows_);
    const Partial part(sums_, rows_, 32), &own = joined ? part : to;
    for (int64_t h = 0; h < rows_; h += Vec::lanes) weigh(h, n, padded, own);
    if (joined) join(to, own, rows_);
    for (int64_t j = 0; j < width_; j += 32) {
      pack_values(entries_.rows(), padded, j, panels_);
      product(weights_, padded, rows_, panels_, 32, padded, joined ? sums_ : to.o + j, joined ? 32 : width_);
      if (joined) blend(to.o + j, width_, sums_, 32, rows_, 32, own);
    }
  }

 private:
  // From the scores of `lanes` heads to weights.
  void weigh(int64_t h, int64_t n, int64_t padded, const Partial& to) {
    const Vec scale = splat(call_.scale * 1.44269504f);
    Vec peak = splat(-__builtin_inff()), total = zero();
    for (int64_t s = 0; s < n; ++s) peak = most(peak, load(scores_ + s * rows_ + h) * scale);
    const Vec shift = finite(peak);
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
  Entries<T> entries_;
  int64_t rows_, width_, token_ = -1;
  F *queries_, *panels_, *weights_;
  float *scores_, *sums_;
};

}  // namespace
}  // namespace deepport::DEEPPORT_LEVEL
