// What a token of sparse attention sees, and in which parts.
#pragma once

#include <algorithm>

#include "paged.h"
#include "product.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

constexpr int64_t block = 32;  // entries that are read at once
constexpr int64_t most_entries = 512;  // of a part

template <class T>
struct Call {
  using F = Factor<T>;
  const T* q;
  Paged<T> window, compressed;
  const int32_t* indices;
  const float* sink;
  Ragged batch;
  int64_t heads, size, selected;
  float scale;
  int64_t window_size, ratio;

  // As sizes of products.
  int64_t rows() const { return whole(heads, panel_columns); }
  int64_t width() const { return whole(size, 32); }
};

// The call of a kernel's arguments, in the order of attention.h.
template <class T>
Call<T> call_of(const void* q, const void* window_pages, const int32_t* window_table, const void* compressed_pages,
                const int32_t* compressed_table, const int32_t* indices, const float* sink, const int64_t* positions,
                const int32_t* cu_seqlens, int64_t heads, int64_t size, int64_t sequences, int64_t window_count,
                int64_t window_page, int64_t window_columns, int64_t compressed_count, int64_t compressed_page,
                int64_t compressed_columns, int64_t selected, float scale, int64_t window_size, int64_t ratio) {
  return {static_cast<const T*>(q),
          {static_cast<const T*>(window_pages), window_table, window_count, window_page, window_columns, size},
          {static_cast<const T*>(compressed_pages), compressed_table, compressed_count, compressed_page, compressed_columns, size},
          indices, sink, {positions, cu_seqlens, sequences}, heads, size, selected, scale, window_size, ratio};
}

inline void refuse(bool outside) {
  if (outside) throw std::out_of_range("sparse_attention: a token sees an entry outside of its table or of the pages");
}

// What a token sees: positions of the window from `oldest` on, then compressed entries.
template <class T>
class Sight {
 public:
  Sight(const Call<T>& call, int64_t token) : call_(call), sequence_(call.batch.sequence_of(token)) {
    const int64_t position = call.batch.positions[token];
    oldest_ = std::max<int64_t>(position - call.window_size + 1, 0);
    near_ = std::max<int64_t>(position + 1 - oldest_, 0);
    if (call.compressed.pages == nullptr) return;
    if (call.indices == nullptr) {
      far_ = std::max<int64_t>((position + 1) / call.ratio, 0);
    } else {
      chosen_ = call.indices + token * call.selected;
      far_ = call.selected - std::count_if(chosen_, chosen_ + call.selected, [](int32_t id) { return id < 0; });
    }
  }

  int64_t count() const { return near_ + far_; }

  // How many of them are the window's.
  int64_t near() const { return near_; }

  // Whether the tables have room for as many.
  bool fits() const {
    return near_ <= call_.window.entries() && far_ <= (chosen_ ? call_.selected : call_.compressed.entries());
  }

  // Where its entries [begin, end) lie.
  void find(int64_t begin, int64_t end, const T** rows) const {
    for (int64_t i = begin; i < std::min(end, near_); ++i) *rows++ = call_.window.row(sequence_, oldest_ + i);
    const int64_t first = std::max(begin, near_) - near_, last = end - near_;
    if (chosen_ == nullptr) {
      for (int64_t i = first; i < last; ++i) *rows++ = call_.compressed.row(sequence_, i);
      return;
    }
    int64_t i = 0;
    for (const int32_t* id = chosen_; i < last; ++id) {
      if (*id < 0) continue;
      if (i++ >= first) *rows++ = call_.compressed.row(sequence_, *id);
    }
  }

 private:
  const Call<T>& call_;
  int64_t sequence_, oldest_ = 0, near_ = 0, far_ = 0;
  const int32_t* chosen_ = nullptr;
};

// A token's entries in equal parts, an even number of them for two threads: the same for any number of threads and tokens.
struct Parts {
  explicit Parts(int64_t entries) : entries_(entries) {
    const int64_t wanted = entries <= 2 * block ? 1 : 2 * ((entries + 2 * most_entries - 1) / (2 * most_entries));
    each_ = std::max(whole((entries + wanted - 1) / wanted, block), block);
  }
  int64_t count() const { return (entries_ + each_ - 1) / each_; }
  int64_t begin(int64_t part) const { return part * each_; }
  int64_t end(int64_t part) const { return std::min(begin(part) + each_, entries_); }

 private:
  int64_t entries_, each_;
};

}  // namespace
}  // namespace deepport::DEEPPORT_LEVEL
