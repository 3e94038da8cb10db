// Linear layers: activations times the transpose of a weight in any number format.
#pragma once

#include <cstdint>

#include "types.h"

// y[t, g, n] = sum_k x[t, g, k] w[g, n, k], summed in float32 and rounded once to y's type. x [tokens, groups, columns]; w [groups,
// rows, columns] in `format`, with its scales, or null.
#define DEEPPORT_LINEAR(KERNEL)                                                                                             \
  KERNEL(linear, const void* x, const void* w, const void* scale, void* y, Type type, Type result, Format format, int64_t tokens, \
         int64_t groups, int64_t rows, int64_t columns)
