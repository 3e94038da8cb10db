#include "angles.h"

#include <cmath>

#include "parallel.h"

namespace deepport::DEEPPORT_LEVEL {

void rotary_angles(const int64_t* positions, const float* frequencies, float* cos, float* sin, int64_t tokens,
                   int64_t pairs, int64_t ratio) {
  parallel(tokens, 1 + 256 / (pairs + 1), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float position = float((positions[t] > 0 ? positions[t] : 0) * ratio);
      for (int64_t r = 0; r < pairs; ++r) {
        // In double: angles of 10^6 radians lose nothing when they are reduced.
        const double angle = double(position * frequencies[r]);
        cos[t * pairs + r] = float(std::cos(angle));
        sin[t * pairs + r] = float(std::sin(angle));
      }
    }
  });
}

}  // namespace deepport::DEEPPORT_LEVEL
