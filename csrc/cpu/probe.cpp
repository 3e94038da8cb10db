#include "probe.h"

#include <atomic>
#include <cstring>

#include "parallel.h"
#include "simd/bytes.h"
#include "simd/simd.h"

namespace deepport::DEEPPORT_LEVEL {
namespace {

// Sums that do not wait for one another: more than the latency of an addition times the number that begin in a cycle.
constexpr int chains = 8, product_chains = 12;

// Places that a thread reads at once: a processor fetches ahead in each, and memory is the busier for it.
constexpr int streams = 4;

// The sum of [p, p + n), n a multiple of chains * lanes, read in `streams` places.
float sum_of(const float* p, int64_t n) {
  constexpr int in_each = chains / streams;
  Vec sums[chains];
  for (Vec& s : sums) s = zero();
  for (int64_t i = 0; i < n / streams; i += in_each * Vec::lanes)
    for (int c = 0; c < chains; ++c)
      sums[c] = sums[c] + load(p + c / in_each * (n / streams) + i + c % in_each * Vec::lanes);
  for (int c = 1; c < chains; ++c) sums[0] = sums[0] + sums[c];
  return sum(sums[0]);
}

// f(thread) on every thread.
template <class F>
void on_all(F&& f) {
  parallel(threads(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) f(i);
  });
}

// What `step(accumulators)` does, over and over in every thread: its accumulators are `product_chains` values of `T`.
template <class T, class Step>
void in_chains(int64_t rounds, float* sums, T start, Step&& step) {
  on_all([&](int64_t thread) {
    T accumulators[product_chains];
    for (T& a : accumulators) a = start;
    for (int64_t r = 0; r < rounds; ++r)
      for (T& a : accumulators) a = step(a);
    float total = 0;
    for (const T& a : accumulators) total += sum(a);
    sums[thread] = total;
  });
}

#if defined(__AMX_BF16__)

// Two tiles by two tiles, four products that do not wait for one another.
template <class Dots>
void in_tiles(int64_t rounds, float* sums, Dots&& dots) {
  on_all([&](int64_t thread) {
    alignas(64) int8_t data[1024] = {};
    const Tiles tiles;
    tile_zero<0>(), tile_zero<1>(), tile_zero<2>(), tile_zero<3>();
    tile_load<4>(data, 64), tile_load<5>(data, 64), tile_load<6>(data, 64), tile_load<7>(data, 64);
    for (int64_t r = 0; r < rounds; ++r) dots();
    tile_store<0>(data, 64);
    std::memcpy(sums + thread, data, sizeof(float));
  });
}

#endif

}  // namespace

void probe_read(const void* data, float* sums, int64_t bytes, int64_t rounds) {
  constexpr int64_t line = chains * Vec::lanes;
  const float* p = static_cast<const float*>(data);
  const int64_t each = bytes / int64_t(sizeof(float)) / threads() / line * line;
  on_all([&](int64_t thread) {
    float total = 0;
    for (int64_t r = 0; r < rounds; ++r) {
      total += sum_of(p + thread * each, each);
      std::atomic_signal_fence(std::memory_order_seq_cst);  // the compiler may not know that it reads the same again
    }
    sums[thread] = total;
  });
}

void probe_gather(const void* table, const int64_t* ids, float* sums, int64_t count, int64_t row, int64_t ahead) {
  const char* p = static_cast<const char*>(table);
  const int64_t team = threads();
  on_all([&](int64_t thread) {
    const int64_t begin = count * thread / team, end = count * (thread + 1) / team;
    Vec total = zero();
    for (int64_t i = begin; i < end; ++i) {
      if (i + ahead < end) prefetch(p + ids[i + ahead] * row, row);
      const float* values = reinterpret_cast<const float*>(p + ids[i] * row);
      for (int64_t c = 0; c < row / int64_t(sizeof(float)); c += Vec::lanes) total = total + load(values + c);
    }
    sums[thread] = sum(total);
  });
}

void probe_products(double* operations, float* sums, Type type, int64_t rounds) {
  const double team = double(threads());
  if (type == Type::float32) {
    const Vec a = splat(0.5f), b = splat(1.0f);
    in_chains(rounds, sums, zero(), [&](Vec c) { return fma(a, b, c); });
    *operations = team * double(rounds) * product_chains * 2 * Vec::lanes;
    return;
  }
#if defined(__AMX_BF16__)
  in_tiles(rounds, sums, [] { tile_dot<0, 4, 6>(), tile_dot<1, 4, 7>(), tile_dot<2, 5, 6>(), tile_dot<3, 5, 7>(); });
  *operations = team * double(rounds) * 4 * 2 * 16 * 16 * 32;
#else
  const bfloat16 pair[2] = {narrow<bfloat16>(0.5f), narrow<bfloat16>(1.0f)};
  const Pairs a = splat_pair(pair), b = splat_pair(pair);
  in_chains(rounds, sums, zero(), [&](Vec c) { return dot(a, b, c); });
  *operations = team * double(rounds) * product_chains * 2 * Pairs::lanes;
#endif
}

void probe_products_int8(double* operations, float* sums, int64_t rounds) {
  *operations = 0;
#if defined(__AMX_INT8__)
  in_tiles(rounds, sums, [] {
    tile_dot_int8<0, 4, 6>(), tile_dot_int8<1, 4, 7>(), tile_dot_int8<2, 5, 6>(), tile_dot_int8<3, 5, 7>();
  });
  *operations = double(threads()) * double(rounds) * 4 * 2 * 16 * 16 * 64;
#elif defined(DEEPPORT_BYTES)
  const Bytes a = splat_bytes(1), b = splat_bytes(-1);
  in_chains(rounds, sums, splat_bytes(0), [&](Bytes c) { return dot(a, b, c); });
  *operations = double(threads()) * double(rounds) * product_chains * 2 * Bytes::lanes;
#else
  (void)sums, (void)rounds;
#endif
}

}  // namespace deepport::DEEPPORT_LEVEL
