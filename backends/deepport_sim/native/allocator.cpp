// The allocator: blocks of memory by stream, as torch's caching allocators give them out, and the statistics of each device.
#include <c10/core/CachingDeviceAllocator.h>

#include <cstring>

#include "call.h"
#include "memory.h"
#include "poison.h"
#include "rules.h"

namespace deepport::sim {

namespace {

constexpr size_t kUnit = 512;  // bytes are counted in units, as a device's allocator gives them out

struct Allocator final : c10::DeviceAllocator {
  c10::CachingDeviceAllocator::DeviceStats stats[kDevices];

  c10::DataPtr allocate(size_t bytes) override { return allocate_on(bytes, current_device(), true); }

  c10::DataPtr allocate_on(size_t bytes, c10::DeviceIndex device, bool poison) {
    const c10::Device place(kType, device);
    if (!bytes) return {nullptr, nullptr, &release, place};
    const Call call(kept("an allocation"));
    const Lock lock(mutex());
    const size_t size = (bytes + kUnit - 1) / kUnit * kUnit;
    check_room(size, device);
    Block* const b = take(size, device, key(current_stream(device)));
    b->size = size;
    b->op = &kept(Call::current_op());
    b->site = &Call::current_site();
    b->poisoned = poison && !dry() && policy(Rule::uninitialised) != Policy::allow;
    count(device, size, true);
    char* const first = address(*b);
    if (b->poisoned) fill_with_poison(host_view(first), size);
    return {first, b, &release, place};
  }

  void check_room(size_t size, c10::DeviceIndex device) {
    const size_t used = size_t(stats[device].allocated_bytes[0].current);
    if (used + size <= capacity()) return;
    ++stats[device].num_ooms;
    report(Rule::out_of_memory,
           c10::str(size, " bytes do not fit beside the ", used, " of ", capacity(), " that are in use on device ", int(device)));
  }

  void count(c10::DeviceIndex device, size_t size, bool more) {
    auto& s = stats[device];
    for (auto* bytes : {&s.allocated_bytes, &s.reserved_bytes, &s.active_bytes, &s.requested_bytes})
      more ? (*bytes)[0].increase(size) : (*bytes)[0].decrease(size);
    more ? s.allocation[0].increase(1) : s.allocation[0].decrease(1);
  }

  static void release(void* context);
  static std::string early_use(const Block& b);

  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t size) const override { std::memcpy(host_view(to), host_view(from), size); }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {}
  void recordStream(const c10::DataPtr& data, c10::Stream stream) override {
    const Lock lock(mutex());
    if (auto* const b = static_cast<Block*>(data.get_context())) b->recorded.push_back(key(stream));
  }
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex device) override {
    const Lock lock(mutex());
    return stats[device];
  }
  void resetAccumulatedStats(c10::DeviceIndex) override {}
  void resetPeakStats(c10::DeviceIndex device) override {
    const Lock lock(mutex());
    auto& s = stats[device];
    for (auto* one : {&s.allocated_bytes, &s.reserved_bytes, &s.active_bytes, &s.requested_bytes, &s.allocation})
      (*one)[0].reset_peak();
  }
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex device) override {
    const Lock lock(mutex());
    const size_t used = size_t(stats[device].allocated_bytes[0].current);
    return {capacity() - std::min(used, capacity()), capacity()};
  }
};

Allocator the_allocator;
REGISTER_ALLOCATOR(kType, &the_allocator)

// What may still use a block that its owner gives back: work of another stream that neither an order nor record_stream covers.
std::string Allocator::early_use(const Block& b) {
  for (const Access& a : b.accesses) {
    const bool said = std::find(b.recorded.begin(), b.recorded.end(), a.stream) != b.recorded.end();
    if (!said && !ordered(a.stream, a.step, b.stream))
      return c10::str(b.size, " bytes of ", *b.op, " at ", *b.site, ", owned by ", told(b.stream),
                      ", are freed while ", told(a.stream), " may still use them (", *a.op, " at ", *a.site,
                      "): call record_stream, or let the owner wait first");
  }
  return {};
}

void Allocator::release(void* context) {
  if (!context) return;
  auto* const b = static_cast<Block*>(context);
  std::string early;
  {
    const Lock lock(mutex());
    early = early_use(*b);
    b->accesses.clear();
    b->recorded.clear();
    the_allocator.count(b->device, b->size, false);
    give(b);
  }
  if (!early.empty()) defer({Rule::record_stream, "a tensor's end", *here().text, early});  // here() takes Python's lock
}

}  // namespace

c10::Allocator* allocator() { return &the_allocator; }

c10::Storage new_storage(size_t bytes, c10::DeviceIndex device, bool poison) {
  return c10::Storage(c10::Storage::use_byte_size_t(), bytes, the_allocator.allocate_on(bytes, device, poison), &the_allocator,
                      /*resizable=*/true);
}

}  // namespace deepport::sim
