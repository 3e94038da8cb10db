// What torch asks of a device: guards and streams, events, hooks for generators and pinned memory.
#include <ATen/core/CachingHostAllocator.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <cstring>

#include "call.h"
#include "generator.h"
#include "memory.h"
#include "rules.h"
#include "staging.h"

namespace deepport::sim {
namespace {

using c10::DeviceIndex;

// What the host waits for by name: whatever was found on the way is raised here.
template <class F>
void explicitly(const char* what, F&& wait) {
  const Call call(kept(what));
  {
    const Lock lock(mutex());
    wait();
  }
  raise_deferred();
}

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kType; }
  DeviceIndex deviceCount() const noexcept override { return kDevices; }
  c10::Device getDevice() const override { return {kType, current_device()}; }
  void setDevice(c10::Device device) const override { set_current_device(device.index()); }
  void uncheckedSetDevice(c10::Device device) const noexcept override { set_current_device(device.index()); }
  c10::Device exchangeDevice(c10::Device device) const override {
    const c10::Device before = getDevice();
    setDevice(device);
    return before;
  }

  c10::Stream getStream(c10::Device device) const override { return current_stream(device.index()); }
  c10::Stream getDefaultStream(c10::Device device) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream getNewStream(c10::Device device, int) const override { return new_stream(device.index()); }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override { return new_stream(device.index()); }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    const c10::Stream before = current_stream(stream.device_index());
    set_current_stream(stream);
    return before;
  }
  bool queryStream(const c10::Stream& stream) const override { return synchronizeStream(stream), true; }
  void synchronizeStream(const c10::Stream& stream) const override {
    explicitly("Stream.synchronize", [&] { wait_on_host(key(stream)); });
  }
  void synchronizeDevice(DeviceIndex device) const override {
    explicitly("synchronize", [&] { wait_for_device(device < 0 ? current_device() : device); });
  }
  void recordDataPtrOnStream(const c10::DataPtr& data, const c10::Stream& stream) const override {
    static_cast<c10::DeviceAllocator*>(allocator())->recordStream(data, stream);
  }

  void record(void** event, const c10::Stream& stream, DeviceIndex, c10::EventFlag) const override {
    const Lock lock(mutex());
    delete static_cast<Event*>(*event);
    *event = new Event(sim::record(key(stream)));
  }
  void block(void* event, const c10::Stream& stream) const override {
    const Lock lock(mutex());
    if (event) wait_on_stream(key(stream), *static_cast<Event*>(event));
  }
  void destroyEvent(void* event, DeviceIndex) const noexcept override { delete static_cast<Event*>(event); }
  // Who asks often enough hears yes: here at once, with the knowledge that goes with it.
  bool queryEvent(void* event) const override { return synchronizeEvent(event), true; }
  void synchronizeEvent(void* event) const override {
    if (event) explicitly("Event.synchronize", [&] { wait_on_host(*static_cast<Event*>(event)); });
  }
  // Of the host: there is no device whose time it could be.
  double elapsedTime(void* begin, void* end, DeviceIndex) const override {
    return std::chrono::duration<double, std::milli>(static_cast<Event*>(end)->at - static_cast<Event*>(begin)->at).count();
  }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return kDevices; }
  void setCurrentDevice(DeviceIndex device) const override { set_current_device(device); }
  DeviceIndex getCurrentDevice() const override { return current_device(); }
  DeviceIndex exchangeDevice(DeviceIndex device) const override {
    const DeviceIndex before = current_device();
    set_current_device(device);
    return before;
  }
  DeviceIndex maybeExchangeDevice(DeviceIndex device) const override { return exchangeDevice(device); }
  bool isPinnedPtr(const void* address) const override { return is_pinned(address); }
  at::Allocator* getPinnedMemoryAllocator() const override { return at::getHostAllocator(kType); }
  at::Device getDeviceFromPtr(void* address) const override {
    const Block* const found = block_at(address);
    TORCH_CHECK(found, "deepport_sim: ", address, " is no device address");
    return {kType, found->device};
  }
  const at::Generator& getDefaultGenerator(DeviceIndex device) const override { return default_generator(device); }
  at::Generator getNewGenerator(DeviceIndex device) const override { return new_generator(device); }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    auto* const own = storage.unsafeGetStorageImpl();
    c10::Storage grown = new_storage(bytes, own->device().index(), true);
    if (const size_t both = std::min(bytes, own->nbytes()); both && !dry())
      std::memcpy(host_view(grown.data()), host_view(own->data()), both);
    own->set_data_ptr_noswap(std::move(grown.unsafeGetStorageImpl()->_mutable_data_ptr_no_checks()));
    own->set_nbytes(bytes);
  }
};

}  // namespace

void register_hooks() {
  static auto* const hooks = new Hooks();
  at::RegisterPrivateUse1HooksInterface(hooks);
}

}  // namespace deepport::sim
