// Rotary embedding.
#pragma once

#include <cstdint>

#include "types.h"

// Of the trailing 2 * pairs channels of x [tokens, heads, width], each pair of neighbours (a, b) becomes
// (a cos - b sin, b cos + a sin) by the angle of its token, cos and sin [tokens, pairs]; sin is negated for the inverse. Channels
// before them are copied.
#define DEEPPORT_ROTARY(KERNEL)                                                                                              \
  KERNEL(rotary, const void* x, const float* cos, const float* sin, void* y, Type type, int64_t tokens, int64_t heads,      \
         int64_t width, int64_t pairs, bool inverse)
