// Threads: OpenMP's, which are torch's too.
#pragma once

#include <omp.h>

#include <cstdint>
#if defined(DEEPPORT_STD_THREADS)
#include <thread>
#include <vector>
#endif

#include "types.h"

namespace deepport::DEEPPORT_LEVEL {

// That `parallel` may use here.
inline int64_t threads() { return omp_in_parallel() ? 1 : omp_get_max_threads(); }

// Calls f(part) for every part in [0, parts), on as many threads as there are.
//
// A team is whole or one thread: changing its size would make OpenMP start and stop threads.
template <class F>
void team(int64_t parts, F&& f) {
#if defined(DEEPPORT_STD_THREADS)
  std::vector<std::thread> all;
  for (int64_t part = 0; part < parts; ++part) all.emplace_back([&f, part] { f(part); });
  for (std::thread& thread : all) thread.join();
#else
#pragma omp parallel num_threads(omp_get_max_threads())
  {
    // Strides, for a team may be smaller than was asked.
    for (int64_t part = omp_get_thread_num(); part < parts; part += omp_get_num_threads()) f(part);
  }
#endif
}

// Calls f(begin, end) on parts of [0, n), each of at least `grain` where one thread is not enough.
//
// Parts are contiguous and an index is computed by one thread: a result that f computes from its index alone is the same for any
// number of threads.
template <class F>
void parallel(int64_t n, int64_t grain, F&& f) {
  const int64_t most = threads();
  if (most == 1 || n <= grain) {
    if (n > 0) f(int64_t(0), n);
    return;
  }
  const int64_t wanted = (n + grain - 1) / grain, parts = wanted < most ? wanted : most;
  team(parts, [&](int64_t part) { f(n * part / parts, n * (part + 1) / parts); });
}

}  // namespace deepport::DEEPPORT_LEVEL
