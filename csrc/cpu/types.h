// Numbers as they lie in memory.
#pragma once

#include <cstdint>
#include <cstring>

namespace deepport {

// The upper half of a float: 8 bits of exponent, 7 of mantissa.
struct bfloat16 {
  uint16_t bits;
};

// Floats of 8 bits, OCP's and AMD's (bias 7 and 8; 4 bits of exponent, 3 of mantissa); a power of two, 2^(bits - 127); two of 4 bits,
// the lower half first.
struct e4m3 {
  uint8_t bits;
};
struct e4m3fnuz {
  uint8_t bits;
};
struct e8m0 {
  uint8_t bits;
};
struct e2m1_pair {
  uint8_t bits;
};

// What a tensor of activations holds.
enum class Type { float32, bfloat16 };

// What a tensor of weights holds, and its scales: one for every block of so many rows and columns, 0 for all there are.
enum class Element { float32, bfloat16, e4m3, e4m3fnuz, e2m1, int8 };

struct Format {
  Element element;
  bool power_of_two;  // scales are e8m0, else float
  int64_t rows, columns;
};

// What a router makes of its logits.
enum class Scoring { sqrtsoftplus, sigmoid, softmax };

// Functions that kernels call live in their level's namespace: one that is not inlined would otherwise be shared between
// levels, and the linker may keep the copy that only the newest processor can run.
#ifndef DEEPPORT_LEVEL
#define DEEPPORT_LEVEL host
#endif
namespace DEEPPORT_LEVEL {

inline float widen(bfloat16 x) {
  uint32_t bits = uint32_t(x.bits) << 16;
  float y;
  std::memcpy(&y, &bits, sizeof y);
  return y;
}

inline float widen(float x) { return x; }
inline float widen(int8_t x) { return float(x); }

inline float widen(e8m0 x) {
  const uint32_t bits = x.bits == 255 ? 0x7fc00000 : x.bits == 0 ? 0x400000 : uint32_t(x.bits) << 23;
  float y;
  std::memcpy(&y, &bits, sizeof y);
  return y;
}

// To the nearest, ties to even; NaN stays NaN.
template <class T>
T narrow(float x);

template <>
inline float narrow<float>(float x) {
  return x;
}

template <>
inline bfloat16 narrow<bfloat16>(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7fffffff) > 0x7f800000) return {uint16_t(bits >> 16 | 0x40)};
  return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

// Calls f with a value of the C++ type that `type` names: `visit(type, [&](auto zero) { using T = decltype(zero); ... })`.
template <class F>
void visit(Type type, F&& f) {
  if (type == Type::bfloat16)
    f(bfloat16{});
  else
    f(float{});
}

}  // namespace DEEPPORT_LEVEL
}  // namespace deepport
