// Pinned host memory, and copies from it that may still be under way: who writes to it before the host has waited for the copy
// spoils what arrives. Copies to it: who reads before that reads nothing.
#pragma once

#include <cstdint>

#include "stream.h"

namespace deepport::sim {

bool is_pinned(const void* address);

// A copy from `host`, a step of a stream: until the host has waited for it, the memory must stay as it is now.
void watch_staging(const at::Tensor& host, Key stream, uint64_t step);

// A copy to `host`, a step of a stream, that may be late: until the host has waited for it the memory cannot be touched, but by
// `deliver`, which is that copy. Of pages that the tensor shares with others nothing is kept.
void bar(const at::Tensor& host, Key stream, uint64_t step);
void deliver(const at::Tensor& host, const std::function<void()>& copy);

// What an address of the host waits for; empty where it may be touched. And letting it be touched all the same.
std::string awaited_at(const void* address);
bool unbar(const void* address);

// Defers a finding for each copy whose source has been changed, and forgets copies that the host has waited for.
void check_staging();

}  // namespace deepport::sim
