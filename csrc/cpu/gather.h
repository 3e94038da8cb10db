// The rows of memory tables.
#pragma once

#include <cstdint>

#include "types.h"

// found[i] = rows[ids[i]], of `width` numbers each, from a table of `height` rows in a format whose blocks lie within a row: element
// times scale in float32, rounded once. scale [height, blocks of a row]; null for plain numbers.
// Throws std::out_of_range, and writes nothing, for an id that the table does not have.
#define DEEPPORT_GATHER(KERNEL)                                                                                              \
  KERNEL(engram_gather, const void* rows, const void* scale, Format format, const int64_t* ids, void* found, Type type,     \
         int64_t count, int64_t height, int64_t width)
