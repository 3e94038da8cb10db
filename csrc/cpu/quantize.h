// Quantised tensors as plain ones.
#pragma once

#include <cstdint>

#include "types.h"

// dequantize: values = data * scale in float32, rounded once; data of `matrices` matrices [rows, columns], each with its scales
//     [row blocks, column blocks].
#define DEEPPORT_QUANTIZE(KERNEL)                                                                                            \
  KERNEL(dequantize, const void* data, const void* scale, Format format, void* values, Type type, int64_t matrices,         \
         int64_t rows, int64_t columns)
