// Softmax in parts: what each has found, and how they join.
#pragma once

#include "simd/math.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

// Attention over some entries, for some heads: o [heads, width] = sum_s 2^(s - peak) kv_s, total = sum_s 2^(s - peak).
struct Partial {
  float *o, *peak, *total;

  static int64_t floats(int64_t heads, int64_t width) { return heads * (width + 2); }
  Partial(float* memory, int64_t heads, int64_t width) : o(memory), peak(o + heads * width), total(peak + heads) {}
};

// Itself, but for -inf: the peak where all scores are, of which 2^(s - peak) is 0 then.
inline Vec finite(Vec peak) { return most(splat(-3e38f), peak); }

// The new peak and total. What is left in `part` are both sums' factors: its peak is that of the old one, its total its own.
inline void join(const Partial& into, const Partial& part, int64_t heads) {
  for (int64_t h = 0; h < heads; h += Vec::lanes) {
    const Vec mine = load(into.peak + h), theirs = load(part.peak + h), peak = most(mine, theirs);
    const Vec keep = exp2(mine - finite(peak)), add = exp2(theirs - finite(peak));
    store(into.total + h, load(into.total + h) * keep + load(part.total + h) * add);
    store(into.peak + h, peak);
    store(part.peak + h, keep);
    store(part.total + h, add);
  }
}

// Some columns of the new sum, once joined.
inline void blend(float* o, int64_t ldo, const float* more, int64_t ldm, int64_t heads, int64_t columns, const Partial& part) {
  for (int64_t h = 0; h < heads; ++h) {
    const Vec keep = splat(part.peak[h]), add = splat(part.total[h]);
    for (int64_t d = 0; d < columns; d += Vec::lanes)
      store(o + h * ldo + d, load(o + h * ldo + d) * keep + load(more + h * ldm + d) * add);
  }
}

}  // namespace
}  // namespace deepport::DEEPPORT_LEVEL
