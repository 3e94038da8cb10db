// The least that tests of kernels need: cases by name, checks that count, memory with guard pages, random numbers.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "guarded.h"
#include "kernels.h"
#include "types.h"

namespace deepport::test {

struct Case {
  const char* name;
  void (*run)(const Table& kernels);
};

inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

inline int& failures() {
  static int count = 0;
  return count;
}

struct Register {
  Register(const char* name, void (*run)(const Table&)) { cases().push_back({name, run}); }
};

#define TEST(name)                                              \
  static void name(const ::deepport::Table& kernels);           \
  static const ::deepport::test::Register name##_(#name, name); \
  static void name([[maybe_unused]] const ::deepport::Table& kernels)

#define CHECK(condition)                                                       \
  do {                                                                         \
    if (!(condition)) {                                                        \
      ++::deepport::test::failures();                                          \
      std::printf("%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
    }                                                                          \
  } while (false)

// |found - wanted| <= relative |wanted| + absolute, both finite or the same.
inline bool near(double found, double wanted, double relative, double absolute = 0) {
  if (std::isnan(wanted)) return std::isnan(found);
  if (std::isinf(wanted)) return found == wanted;
  return std::abs(found - wanted) <= relative * std::abs(wanted) + absolute;
}

// Whether the call throws what refuses an index, or another error.
template <class Error = std::out_of_range, class F>
bool refused(F&& call) {
  try {
    call();
  } catch (const Error&) {
    return true;
  }
  return false;
}

// Normally distributed, in guarded memory.
template <class T>
Guarded<T> normal(std::mt19937& generator, size_t n, float scale = 1) {
  std::normal_distribution<float> draw(0, scale);
  Guarded<T> values(n);
  for (size_t i = 0; i < n; ++i) values[i] = host::narrow<T>(draw(generator));
  return values;
}

template <class T>
constexpr Type type_of = std::is_same_v<T, bfloat16> ? Type::bfloat16 : Type::float32;

// Half a unit in the last place, relative.
template <class T>
constexpr double rounding = std::is_same_v<T, bfloat16> ? 0x1p-8 : 0x1p-24;

}  // namespace deepport::test
