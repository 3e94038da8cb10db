// What the processor does at most, found out by doing nothing else: the limits that `deepport bench` prints beside every figure.
#pragma once

#include <cstdint>

#include "types.h"

// probe_read: every thread reads its part of `data`, of `bytes` in all, `rounds` times over. `sums [threads]` keeps it from being
//   left out, here and below.
// probe_gather: reads the rows `ids [count]` of `row` bytes of a table, each asked for `ahead` rows before it is read.
// probe_products: multiplies and adds numbers of `type` in registers, and says how many operations that was: a product and a sum
//   are two.
// probe_products_int8: the same with int8 in int32; 0 operations where the level has no instruction for it.
#define DEEPPORT_PROBE(KERNEL)                                                                                        \
  KERNEL(probe_read, const void* data, float* sums, int64_t bytes, int64_t rounds)                                    \
  KERNEL(probe_gather, const void* table, const int64_t* ids, float* sums, int64_t count, int64_t row, int64_t ahead) \
  KERNEL(probe_products, double* operations, float* sums, Type type, int64_t rounds)                                  \
  KERNEL(probe_products_int8, double* operations, float* sums, int64_t rounds)
