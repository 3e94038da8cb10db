// What tests of gradients share: numbers as doubles, sums with their sizes, comparisons of bits.
#pragma once

#include <cstring>

#include "threads.h"

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

// A sum in float64, and the sum of its terms' sizes.
struct Total {
  double value = 0, size = 0;
  void add(double term) { value += term, size += std::abs(term); }
};

}  // namespace deepport::test
