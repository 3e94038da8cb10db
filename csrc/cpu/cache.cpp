#include "cache.h"

#include <cstring>

#include "outside.h"
#include "paged.h"
#include "parallel.h"
#include "scratch.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

// Where each token's row begins, in `places`; false where one has no place.
bool addresses(const Ragged& batch, const Paged<char>& cache, const char** places) {
  for (int64_t b = 0; b < batch.sequences; ++b)
    for (int64_t t = batch.cu_seqlens[b]; t < batch.cu_seqlens[b + 1]; ++t)
      if (!(places[t] = cache.row(b, batch.positions[t]))) return false;
  return true;
}

}  // namespace

void write_pages(void* pages, const int32_t* table, const void* values, const int64_t* positions, const int32_t* cu_seqlens,
                 int64_t tokens, int64_t sequences, int64_t count, int64_t page, int64_t columns, int64_t row_bytes) {
  struct Tag;
  char* const first = static_cast<char*>(pages);
  const Ragged batch{positions, cu_seqlens, sequences};
  batch.check(tokens);
  const char** places = Scratch<Tag>::template get<const char*>(tokens);
  if (!addresses(batch, {first, table, count, page, columns, row_bytes}, places))
    outside("write_pages: a position lies outside the table, which holds %lld entries, or its page is none of the %lld",
            static_cast<long long>(columns * page), static_cast<long long>(count));
  const char* from = static_cast<const char*>(values);
  parallel(batch.rows(), 1 + 65536 / (row_bytes + 1), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) std::memcpy(first + (places[t] - first), from + t * row_bytes, size_t(row_bytes));
  });
}

}  // namespace deepport::DEEPPORT_LEVEL
