// The entries that a token sees, as factors of products.
#pragma once

#include <atomic>

#include "pack.h"
#include "scratch.h"
#include "sight.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

struct Keys;
struct Copies;
struct Found;
struct FactorRows;

// An entry is read where it lies, if it lies there as factors do. Row 0 of the copies is 0, which stands for what is not there.
template <class T>
class Entries {
  using F = Factor<T>;

 public:
  Entries(const Call<T>& call, std::atomic<bool>& outside) : call_(call), outside_(outside), width_(call.width()) {}

  // Finds the entries [begin, end) of what a token sees; returns how many there are with those that fill the last block.
  int64_t find(const Sight<T>& sight, int64_t begin, int64_t end) {
    const int64_t n = end - begin, padded = whole(n, block);
    found_ = Scratch<Found>::get<const T*>(n);
    rows_ = Scratch<FactorRows>::get<const F*>(padded);
    keys_ = Scratch<Keys>::get<F>(block * width_);
    copies_ = Scratch<Copies>::get<F>((as_they_lie() ? 1 : n + 1) * width_);
    std::memset(copies_, 0, size_t(width_) * sizeof(F));
    sight.find(begin, end, found_);
    for (int64_t i = 0; i < padded; ++i) rows_[i] = row(i, n);
    return padded;
  }

  const F* const* rows() const { return rows_; }

  // A block of entries from s on, one behind the other.
  const F* keys(int64_t s) const {
    bool together = true;
    for (int64_t i = 1; i < block; ++i) together &= rows_[s + i] == rows_[s] + i * width_;
    for (int64_t i = s; i < s + block; ++i) {
      if (!together) std::memcpy(keys_ + (i - s) * width_, rows_[i], size_t(width_) * sizeof(F));
    }
    return together ? rows_[s] : keys_;
  }

 private:
  // Whether a row of the cache is one of factors.
  bool as_they_lie() const { return std::is_same_v<T, F> && call_.size == width_; }

  // Row i of n as factors.
  const F* row(int64_t i, int64_t n) {
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

  const Call<T>& call_;
  std::atomic<bool>& outside_;
  int64_t width_;
  const T** found_ = nullptr;
  const F** rows_ = nullptr;
  F *keys_ = nullptr, *copies_ = nullptr;
};

}  // namespace
}  // namespace deepport::DEEPPORT_LEVEL
