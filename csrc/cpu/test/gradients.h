// What tests of gradients share: numbers as doubles, comparisons of bits, teams of a size.
#pragma once

#include <omp.h>

#include <cstring>

#include "check.h"

namespace deepport::test {

using Numbers = std::vector<double>;

template <class T>
Numbers doubles(const Guarded<T>& x) {
  Numbers found;
  for (size_t i = 0; i < x.size(); ++i) found.push_back(double(host::widen(x[i])));
  return found;
}

template <class T>
bool same(const Guarded<T>& a, const Guarded<T>& b) {
  return !std::memcmp(a.data(), b.data(), a.size() * sizeof(T));
}

// f() with so many threads.
template <class F>
auto on_threads(int count, F&& f) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(count);
  auto found = f();
  omp_set_num_threads(before);
  return found;
}

}  // namespace deepport::test
