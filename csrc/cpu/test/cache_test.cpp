#include <stdexcept>

#include "batches.h"
#include "check.h"

namespace deepport::test {
namespace {

// pages of three floats a row, in a table of two pages a sequence, the last sequence's first.
struct Written {
  static constexpr int64_t page = 4, columns = 2, width = 3;
  Batch batch;
  int64_t count;
  Guarded<float> pages, values;
  Guarded<int32_t> table;

  explicit Written(Batch given)
      : batch(std::move(given)), count(batch.sequences() * columns), pages(size_t(count * page * width)),
        values(size_t(batch.tokens * width)), table(size_t(count)) {
    for (size_t i = 0; i < values.size(); ++i) values[i] = float(i + 1);
    for (int64_t i = 0; i < count; ++i) table[size_t(i)] = int32_t(count - 1 - i);
  }

  void write(const Table& kernels) {
    kernels.write_pages(pages.data(), table.data(), values.data(), batch.positions.data(), batch.cu_seqlens.data(), batch.tokens,
                        batch.sequences(), count, page, columns, width * int64_t(sizeof(float)));
  }

  // Refused, with nothing written.
  void check_refused(const Table& kernels) {
    CHECK(refused([&] { write(kernels); }));
    for (size_t i = 0; i < pages.size(); ++i) CHECK(pages[i] == 0);
  }
};

}  // namespace

TEST(pages_are_written_where_the_table_says) {
  Written of(Batch({3, 0, 5}, {5, 0, 0}, 2));
  of.write(kernels);
  size_t written = 0;
  for (size_t b = 0; b < 3; ++b)
    for (int64_t i = 0; i < of.batch.lengths[b]; ++i) {
      const int64_t position = of.batch.first[b] + i, token = of.batch.cu_seqlens[b] + i;
      const int64_t at = of.table[b * 2 + size_t(position / of.page)] * of.page + position % of.page;
      for (int64_t c = 0; c < of.width; ++c) CHECK(of.pages[size_t(at * of.width + c)] == of.values[size_t(token * of.width + c)]);
      ++written;
    }
  for (size_t i = 0; i < of.pages.size(); i += 3) written -= of.pages[i] != 0;
  CHECK(written == 0);
}

TEST(pages_are_left_alone_by_a_position_outside) {
  for (int64_t position : {int64_t(-1), int64_t(8), int64_t(1) << 33, INT64_MIN}) {
    Written of(Batch({2, 2}, {0, 1}));
    of.batch.positions[3] = position;
    of.check_refused(kernels);
  }
  for (int32_t place : {-1, 4, INT32_MAX}) {
    Written of(Batch({2, 2}, {0, 1}));
    of.table[2] = place;
    of.check_refused(kernels);
  }
}

}  // namespace deepport::test
