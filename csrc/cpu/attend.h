// Attention of one token over a part of what it sees.
#pragma once

#include <atomic>

#include "partial.h"
#include "pack.h"
#include "scratch.h"
#include "sight.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

struct Queries;
struct Keys;
struct Copies;
struct Panels;
struct Scores;
struct Weights;
struct Sums;
struct Found;
struct Entries;

// Two products and what is between them. An entry is read where it lies, once for the scores of all heads and, soon after, once as
// a value.
template <class T>
class Worker {
  using F = Factor<T>;

 public:
  Worker(const Call<T>& call, std::atomic<bool>& outside)
      : call_(call), outside_(outside), rows_(call.rows()), width_(call.width()) {
    queries_ = Scratch<Queries>::template get<F>(rows_ * width_);
    keys_ = Scratch<Keys>::template get<F>(block * width_);
    copies_ = Scratch<Copies>::template get<F>((as_they_lie() ? 1 : most_entries + 1) * width_);
    panels_ = Scratch<Panels>::template get<F>(32 * most_entries);
    scores_ = Scratch<Scores>::template get<float>(most_entries * rows_);
    weights_ = Scratch<Weights>::template get<F>(most_entries * rows_);
    sums_ = Scratch<Sums>::template get<float>(Partial::floats(rows_, 32));
    found_ = Scratch<Found>::template get<const T*>(most_entries);
    entries_ = Scratch<Entries>::template get<const F*>(most_entries);
    std::memset(copies_, 0, size_t(width_) * sizeof(F));
  }

  // Attention of token t over its entries [begin, end): instead of what `to` holds, or joined to it.
  void attend(int64_t t, const Sight<T>& sight, int64_t begin, int64_t end, const Partial& to, bool joined) {
    if (t != token_) pack_transposed(call_.q + t * call_.heads * call_.size, call_.heads, call_.size, queries_);
    token_ = t;
    const int64_t n = end - begin, padded = whole(n, block);
    sight.find(begin, end, found_);
    for (int64_t i = 0; i < padded; ++i) entries_[i] = entry(i, n);
    for (int64_t s = 0; s < padded; s += block)
      product(keys(s), width_, block, queries_, rows_, width_, scores_ + s * rows_, rows_);
    const Partial part(sums_, rows_, 32), &own = joined ? part : to;
    for (int64_t h = 0; h < rows_; h += Vec::lanes) weigh(h, n, padded, own);
    if (joined) join(to, own, rows_);
    for (int64_t j = 0; j < width_; j += 32) {
      pack_values(entries_, padded, j, panels_);
      product(weights_, padded, rows_, panels_, 32, padded, joined ? sums_ : to.o + j, joined ? 32 : width_);
      if (joined) blend(to.o + j, width_, sums_, 32, rows_, 32, own);
    }
  }

 private:
  // Whether a row of the cache is one of factors.
  bool as_they_lie() const { return std::is_same_v<T, F> && call_.size == width_; }

  // Row i of n as factors. The first of the copies is 0, which stands for what is not there.
  const F* entry(int64_t i, int64_t n) {
    if (i >= n) return copies_;
    if (found_[i] == nullptr) {
      outside_ = true;
      return copies_;
    }
    if constexpr (std::is_same_v<T, F>)
      if (as_they_lie()) return found_[i];
    F* copy = copies_ + (i + 1) * width_;
    copy_row(found_[i], call_.size, copy, width_);
    return copy;
  }

  // A block of entries, one behind the other.
  const F* keys(int64_t s) {
    bool together = true;
    for (int64_t i = 1; i < block; ++i) together &= entries_[s + i] == entries_[s] + i * width_;
    for (int64_t i = s; i < s + block; ++i) {
      if (!together) std::memcpy(keys_ + (i - s) * width_, entries_[i], size_t(width_) * sizeof(F));
    }
    return together ? entries_[s] : keys_;
  }

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
  std::atomic<bool>& outside_;
  int64_t rows_, width_, token_ = -1;
  F *queries_, *keys_, *copies_, *panels_, *weights_;
  float *scores_, *sums_;
  const T** found_;
  const F** entries_;
};

}  // namespace
}  // namespace deepport::DEEPPORT_LEVEL
