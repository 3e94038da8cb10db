// Root-mean-square normalisation.
#pragma once

#include <cstdint>

#include "types.h"

// y[r, c] = weight[c] * x[r, c] / sqrt(mean_c(x[r]^2) + eps) in float32, rounded once. No weight: null.
#define DEEPPORT_NORM(KERNEL) \
  KERNEL(rms_norm, const void* x, const float* weight, void* y, Type type, int64_t rows, int64_t width, float eps)
