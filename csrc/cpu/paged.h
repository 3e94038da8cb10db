// Ragged batches and paged caches, as kernels read them (`deepport/ragged.py`).
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>

#include "types.h"

namespace deepport::DEEPPORT_LEVEL {

// The new tokens of all sequences, one after another.
struct Ragged {
  const int64_t* positions;
  const int32_t* cu_seqlens;
  int64_t sequences;

  // Rows from here on are padding.
  int64_t rows() const { return cu_seqlens[sequences]; }

  // Throws std::out_of_range unless sequences follow one another from row 0 on, within so many rows.
  void check(int64_t tokens) const {
    if (cu_seqlens[0] != 0 || cu_seqlens[sequences] > tokens || !std::is_sorted(cu_seqlens, cu_seqlens + sequences + 1))
      throw std::out_of_range("first rows (cu_seqlens, offsets) do not begin at 0, descend, or go beyond the rows that there are");
  }

  int64_t sequence_of(int64_t row) const {
    return std::upper_bound(cu_seqlens + 1, cu_seqlens + sequences + 1, row) - (cu_seqlens + 1);
  }
};

// pages [count, page, width] and table [sequences, columns].
template <class T>
struct Paged {
  const T* pages;
  const int32_t* table;
  int64_t count, page, columns, width;

  // That a sequence may have.
  int64_t entries() const { return columns * page; }

  // Where an entry of a sequence lies, null outside of the table or of the pages.
  const T* row(int64_t sequence, int64_t entry) const {
    if (entry < 0 || entry >= entries()) return nullptr;
    const int64_t place = table[sequence * columns + entry / page];
    return place < 0 || place >= count ? nullptr : pages + (place * page + entry % page) * width;
  }
};

}  // namespace deepport::DEEPPORT_LEVEL
