// The paged cache's write.
#pragma once

#include <cstdint>

#include "types.h"

// pages[table[b, p / page], p % page] = values[t] for every new token t of sequence b at position p: rows of `row_bytes`, in
// pages [count, page] with table [sequences, columns]; positions, cu_seqlens [sequences + 1] as in paged.h.
// Throws std::out_of_range, and writes nothing, where a token's place is outside of the table or of the pages.
#define DEEPPORT_CACHE(KERNEL)                                                                                               \
  KERNEL(write_pages, void* pages, const int32_t* table, const void* values, const int64_t* positions,                      \
         const int32_t* cu_seqlens, int64_t tokens, int64_t sequences, int64_t count, int64_t page, int64_t columns,        \
         int64_t row_bytes)
