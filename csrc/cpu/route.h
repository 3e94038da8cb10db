// Which experts a token goes to, and with which weights.
#pragma once

#include <cstdint>

#include "types.h"

// s[t] = scoring(logits[t]) in float32; ids[t] = the k largest of s[t] + bias, of equal ones the lowest ids first, NaN before all;
// or, with a table [vocabulary, k] (and then no bias), table[input_ids[t]]. weights[t, j] = scale * s[t, ids[t, j]] divided by their
// sum + 1e-20.
//
// logits [tokens, experts]; k <= experts. Throws std::out_of_range for an input id or an expert outside its table.
#define DEEPPORT_ROUTE(KERNEL)                                                                                         \
  KERNEL(route, const void* logits, Type type, const float* bias, const int64_t* table, const int64_t* input_ids,     \
         int64_t vocabulary, float* weights, int32_t* ids, int64_t tokens, int64_t experts, int64_t k, Scoring scoring, \
         float scale)
