// Quantised tensors as plain ones, and plain ones quantised.
#pragma once

#include <cstdint>

#include "types.h"

// dequantize: values = data * scale in float32, rounded once; data of `matrices` matrices [rows, columns], each with its scales
//     [row blocks, column blocks].
// quantize: data = values / scale, rounded once; a block's scale is the least, of powers of two or of floats, under which its numbers
//     are in range, 1 where all are 0. Throws std::invalid_argument where a value is not finite.
#define DEEPPORT_QUANTIZE(KERNEL)                                                                                            \
  KERNEL(dequantize, const void* data, const void* scale, Format format, void* values, Type type, int64_t matrices,         \
         int64_t rows, int64_t columns)                                                                                      \
  KERNEL(quantize, const void* values, Type type, void* data, void* scale, Format format, int64_t matrices, int64_t rows,   \
         int64_t columns)
