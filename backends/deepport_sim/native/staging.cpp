#include "staging.h"

#include <ATen/core/CachingHostAllocator.h>

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <list>

#include "call.h"
#include "memory.h"
#include "rules.h"

namespace deepport::sim {
namespace {

struct Watch {
  at::Tensor host;
  uint64_t content;
  Key stream;
  uint64_t step;
  const std::string *op, *site;
};

// Whole pages that a copy is to arrive in.
struct Arrival {
  uintptr_t begin, end;
  Key stream;
  uint64_t step;
  const std::string *op, *site;
};

struct Pinned {
  std::map<uintptr_t, size_t> ranges;
  std::list<Watch> watches;
  std::list<Arrival> arrivals;
};

Pinned& pinned() {
  static auto* const one = new Pinned();
  return *one;
}

uint64_t mixed(uint64_t hash, uint64_t word) { return (hash ^ word) * 0x9E3779B97F4A7C15u ^ (hash >> 29); }

uint64_t content_of(const at::Tensor& t) {
  const auto [low, high] = extent(t);
  const char* const bytes = static_cast<const char*>(t.storage().data()) + low;
  const size_t size = high - low;
  uint64_t hash = size;
  for (size_t i = 0; i < size; i += sizeof hash) {
    uint64_t word = 0;
    std::memcpy(&word, bytes + i, std::min(size - i, sizeof word));
    hash = mixed(hash, word);
  }
  return hash;
}

void protect(const Arrival& a, int protection) { mprotect(reinterpret_cast<void*>(a.begin), a.end - a.begin, protection); }

bool has(const Arrival& a, const void* address) { return uintptr_t(address) >= a.begin && uintptr_t(address) < a.end; }

// The pages that a tensor alone lies on: an allocation's last page is its own to the end.
std::pair<uintptr_t, uintptr_t> pages_of(const at::Tensor& t) {
  const auto [low, high] = extent(t);
  const auto first = uintptr_t(t.storage().data());
  const auto& [begin, size] = *std::prev(pinned().ranges.upper_bound(first));
  const uintptr_t last = first + high == begin + size ? first + high + kPage - 1 : first + high;
  return {(first + low + kPage - 1) / kPage * kPage, last / kPage * kPage};
}

template <class F>
void forget_arrivals(F&& over) {
  auto& arrivals = pinned().arrivals;
  for (auto a = arrivals.begin(); a != arrivals.end();)
    if (over(*a)) {
      protect(*a, PROT_READ | PROT_WRITE);
      a = arrivals.erase(a);
    } else {
      ++a;
    }
}

struct PinnedAllocator final : at::HostAllocator {
  c10::DataPtr allocate(size_t size) override {
    if (!size) return {nullptr, nullptr, &release, c10::Device(at::kCPU)};
    void* const memory = std::aligned_alloc(kPage, (size + kPage - 1) / kPage * kPage);
    TORCH_CHECK(memory, "deepport_sim: there is no memory for ", size, " pinned bytes");
    const Lock lock(mutex());
    pinned().ranges[uintptr_t(memory)] = size;
    return {memory, memory, &release, c10::Device(at::kCPU)};
  }
  static void release(void* memory) {
    if (!memory) return;
    {
      const Lock lock(mutex());
      const auto range = pinned().ranges.find(uintptr_t(memory));
      forget_arrivals([&](const Arrival& a) { return a.begin >= range->first && a.begin < range->first + range->second; });
      pinned().ranges.erase(range);
    }
    std::free(memory);
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t size) const override { std::memcpy(to, from, size); }
  // Copies under way keep their memory themselves.
  bool record_event(void*, void*, c10::Stream) override { return true; }
  void empty_cache() override {}
  at::HostStats get_stats() override { return {}; }
  void reset_accumulated_stats() override {}
  void reset_peak_stats() override {}
};

PinnedAllocator pinned_allocator;
REGISTER_HOST_ALLOCATOR(kType, &pinned_allocator)

}  // namespace

bool is_pinned(const void* address) {
  const Lock lock(mutex());
  auto& ranges = pinned().ranges;
  auto after = ranges.upper_bound(uintptr_t(address));
  if (after == ranges.begin()) return false;
  const auto& [begin, size] = *--after;
  return uintptr_t(address) < begin + size;
}

void watch_staging(const at::Tensor& host, Key stream, uint64_t step) {
  const auto* op = &kept(Call::current_op());
  pinned().watches.push_back({bare(host), content_of(host), stream, step, op, &Call::current_site()});
}

void bar(const at::Tensor& host, Key stream, uint64_t step) {
  const auto [begin, end] = pages_of(host);
  if (begin >= end || policy(Rule::staging) == Policy::allow) return;
  pinned().arrivals.push_back({begin, end, stream, step, &kept(Call::current_op()), &Call::current_site()});
  protect(pinned().arrivals.back(), PROT_NONE);
}

void deliver(const at::Tensor& host, const std::function<void()>& copy) {
  const auto [begin, end] = pages_of(host);
  const auto each = [begin = begin, end = end](int protection) {
    for (const Arrival& a : pinned().arrivals)
      if (a.begin < end && begin < a.end) protect(a, protection);
  };
  each(PROT_READ | PROT_WRITE);
  copy();
  each(PROT_NONE);
}

std::string awaited_at(const void* address) {
  for (const Arrival& a : pinned().arrivals)
    if (has(a, address)) return c10::str("a copy to it on ", told(a.stream), " by ", *a.op, " at ", *a.site);
  return {};
}

bool unbar(const void* address) {
  const size_t before = pinned().arrivals.size();
  forget_arrivals([&](const Arrival& a) { return has(a, address); });
  return pinned().arrivals.size() < before;
}

void check_staging() {
  forget_arrivals([](const Arrival& a) { return host_knows(a.stream, a.step); });
  auto& watches = pinned().watches;
  for (auto watch = watches.begin(); watch != watches.end();) {
    const bool spoilt = content_of(watch->host) != watch->content;
    if (spoilt)
      defer({Rule::staging, *watch->op, *watch->site,
             c10::str("the ", watch->host.nbytes(), " pinned bytes that were being copied on ", told(watch->stream),
                      " were written to before the host had waited for the copy")});
    watch = spoilt || host_knows(watch->stream, watch->step) ? watches.erase(watch) : std::next(watch);
  }
}

}  // namespace deepport::sim
