// The k largest of a stream of scores, and their ids.
#pragma once

#include <algorithm>
#include <cstring>

#include "simd/simd.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

// Floats in their order: the unsigned integer of a larger one is larger.
inline float from_ordered(uint32_t code) {
  const uint32_t bits = code >> 31 ? code ^ 0x80000000u : ~code;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// Candidates in the order of their ids, of which no more are kept than memory holds: whenever it is full, the k best stay, and from
// then on only what is better than the worst of them is a candidate. Ids come ascending, so that ties stay with the lowest.
class Best {
 public:
  static constexpr int64_t spare = 1024;  // candidates beside the k best, before they are thinned out
  static int64_t floats(int64_t k) { return 2 * room(k); }

  Best(float* memory, int64_t k) : scores_(memory), ids_(memory + room(k)), k_(k), limit_(k + spare) {}

  // The scores of ids from, from + 1, ..., of these lanes.
  void add(Vec scores, int32_t from, uint32_t lanes) { keep(scores, numbered(from), lanes & (full_ ? greater(scores, splat(worst_)) : number(scores))); }

  // What another has found, of higher ids.
  void add(const Best& other) {
    for (int64_t i = 0; i < other.count_; i += Vec::lanes) keep(load(other.scores_ + i), load(other.ids_ + i), other.lanes(i));
  }

  // The k best ids, ascending, then -1.
  void list(int32_t* ids) {
    if (count_ > k_) thin();
    std::memcpy(ids, ids_, size_t(count_) * sizeof *ids);
    std::fill(ids + count_, ids + k_, -1);
  }

 private:
  static int64_t room(int64_t k) { return (k + spare + 2 * Vec::lanes) / Vec::lanes * Vec::lanes; }

  uint32_t lanes(int64_t i) const { return count_ - i < Vec::lanes ? (1u << (count_ - i)) - 1 : uint32_t((1ull << Vec::lanes) - 1); }

  void keep(Vec scores, Vec ids, uint32_t lanes) {
    store_chosen(scores_ + count_, scores, lanes);
    store_chosen(ids_ + count_, ids, lanes);
    count_ += __builtin_popcount(lanes);
    if (count_ > limit_) thin();
  }

  int64_t below(float x) const {
    int64_t found = 0;
    for (int64_t i = 0; i < count_; i += Vec::lanes) found += __builtin_popcount(greater(splat(x), load(scores_ + i)) & lanes(i));
    return found;
  }

  // A score that k candidates reach, and as few more as can be: the largest such, a bit at a time.
  float kth() const {
    constexpr uint32_t least = 0x007fffff;  // -inf
    uint32_t code = 0;
    for (uint32_t bit = 1u << 31; bit; bit >>= 1) {
      const int64_t reached = count_ - below(from_ordered(std::max(code | bit, least)));
      if (reached >= k_) code |= bit;
      if (reached == k_) break;
    }
    return from_ordered(std::max(code, least));
  }

  // Leaves the k best: what is above the k-th, and of what equals it the first.
  void thin() {
    worst_ = kth();
    full_ = true;
    const Vec worst = splat(worst_);
    int64_t above = 0;
    for (int64_t i = 0; i < count_; i += Vec::lanes) above += __builtin_popcount(greater(load(scores_ + i), worst) & lanes(i));
    int64_t equals = k_ - above, kept = 0;
    for (int64_t i = 0; i < count_; i += Vec::lanes) {
      const Vec scores = load(scores_ + i), ids = load(ids_ + i);
      const uint32_t all = lanes(i), better = greater(scores, worst) & all;
      uint32_t equal = all & ~better & ~greater(worst, scores);
      for (; __builtin_popcount(equal) > equals;) equal &= ~(1u << (31 - __builtin_clz(equal)));
      equals -= __builtin_popcount(equal);
      store_chosen(scores_ + kept, scores, better | equal);
      store_chosen(ids_ + kept, ids, better | equal);
      kept += __builtin_popcount(better | equal);
    }
    count_ = kept;
  }

  float *scores_, *ids_;  // ids as bits
  int64_t k_, limit_, count_ = 0;
  bool full_ = false;
  float worst_ = 0;
};

}  // namespace
}  // namespace deepport::DEEPPORT_LEVEL
