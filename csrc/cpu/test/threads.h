// Teams of a size, and results that do not depend on it.
#pragma once

#include <omp.h>

#include <vector>

#include "check.h"

namespace deepport::test {

// f() with so many threads.
template <class F>
auto on_threads(int count, F&& f) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(count);
  auto found = f();
  omp_set_num_threads(before);
  return found;
}

// What lies in these buffers, one after another.
template <class... T>
std::vector<char> bytes(const Guarded<T>&... buffers) {
  std::vector<char> found;
  const auto add = [&](const auto& buffer) {
    const char* first = reinterpret_cast<const char*>(buffer.data());
    found.insert(found.end(), first, first + buffer.size() * sizeof(*buffer.data()));
  };
  (add(buffers), ...);
  return found;
}

// run() gives the same bytes from one thread, two and three.
template <class F>
void same_on_any_threads(F&& run) {
  const std::vector<char> alone = on_threads(1, run);
  for (int threads : {2, 3}) CHECK(on_threads(threads, run) == alone);
}

}  // namespace deepport::test
