// Rotary angles.
#pragma once

#include <cstdint>

// cos[t, r], sin[t, r] of float32(max(positions[t], 0) * ratio) x frequencies[r], each rounded once.
#define DEEPPORT_ANGLES(KERNEL)                                                                                     \
  KERNEL(rotary_angles, const int64_t* positions, const float* frequencies, float* cos, float* sin, int64_t tokens, \
         int64_t pairs, int64_t ratio)
