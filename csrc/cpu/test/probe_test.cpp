#include <omp.h>

#include "check.h"

namespace deepport::test {
namespace {

// A number for every thread, and their total.
struct Sums {
  Guarded<float> each{size_t(omp_get_max_threads())};
  Sums() {
    for (int i = 0; i < omp_get_max_threads(); ++i) each[size_t(i)] = 0;
  }
  double total() const {
    double sum = 0;
    for (int i = 0; i < omp_get_max_threads(); ++i) sum += each[size_t(i)];
    return sum;
  }
};

}  // namespace

TEST(a_read_is_of_all_but_a_tail_and_of_nothing_outside) {
  const int64_t line = 128 * omp_get_max_threads();  // of the widest level
  for (int64_t count : {int64_t(0), int64_t(5), line, 10 * line, 10 * line + 7}) {
    Guarded<float> data{size_t(count)};
    for (int64_t i = 0; i < count; ++i) data[size_t(i)] = 1;
    Sums sums;
    kernels.probe_read(data.data(), sums.each.data(), count * int64_t(sizeof(float)), 3);
    CHECK(sums.total() >= 3 * double(count / line * line));
    CHECK(sums.total() <= 3 * double(count));
  }
}

TEST(a_gather_reads_the_rows_of_its_ids) {
  for (int64_t row : {256, 512, 1024})
    for (int64_t count : {0, 1, 50}) {
      const int64_t width = row / int64_t(sizeof(float)), rows = 20;
      Guarded<float> table{size_t(rows * width)};
      for (int64_t i = 0; i < rows * width; ++i) table[size_t(i)] = float(i / width);
      Guarded<int64_t> ids{size_t(count)};
      double wanted = 0;
      for (int64_t i = 0; i < count; ++i) {
        ids[size_t(i)] = (7 * i + 3) % rows;
        wanted += double(ids[size_t(i)] * width);
      }
      Sums sums;
      kernels.probe_gather(table.data(), ids.data(), sums.each.data(), count, row, 16);
      CHECK(sums.total() == wanted);
    }
}

TEST(products_are_counted) {
  for (Type type : {Type::float32, Type::bfloat16}) {
    double once = 0, thrice = 0;
    Sums sums;
    kernels.probe_products(&once, sums.each.data(), type, 100);
    kernels.probe_products(&thrice, sums.each.data(), type, 300);
    CHECK(once >= 100.0 * omp_get_max_threads());
    CHECK(thrice == 3 * once);
    CHECK(std::isfinite(sums.total()));
  }
  double operations = -1;
  Sums sums;
  kernels.probe_products_int8(&operations, sums.each.data(), 100);
  CHECK(operations >= 0);
}

}  // namespace deepport::test
