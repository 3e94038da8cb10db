// Tiles: eight registers of 16 rows of 64 bytes, and products of 16 x 32 x 16 bfloat16 (AMX).
//
// Written in assembly because the compiler's functions do not say that they read and write memory.
#pragma once

#include <immintrin.h>

namespace deepport::DEEPPORT_LEVEL {

// While it lives, the thread's tiles are whole: 16 rows of 64 bytes.
class Tiles {
 public:
  Tiles() {
    struct alignas(64) {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } whole;
    asm volatile("ldtilecfg %0" ::"m"(whole));
  }
  ~Tiles() { asm volatile("tilerelease"); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

template <int tile>
inline void tile_zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(tile));
}

// 16 rows of 64 bytes, `stride` bytes apart.
template <int tile>
inline void tile_load(const void* p, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "i"(tile) : "memory");
}

template <int tile>
inline void tile_store(void* p, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(stride), "i"(tile) : "memory");
}

// c[16, 16] += a[16, 32] b[32, 16] of bfloat16, b in pairs: row i of its tile is b[2i, 0], b[2i + 1, 0], b[2i, 1], ...
template <int c, int a, int b>
inline void tile_dot() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(b));
}

}  // namespace deepport::DEEPPORT_LEVEL
