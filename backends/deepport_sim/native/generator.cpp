#include "generator.h"

#include <ATen/CPUGeneratorImpl.h>

#include <vector>

#include "stream.h"

namespace deepport::sim {
namespace {

// A CPU generator that says it is on the device; its draws are those of `host`, which kernels get in its place.
struct Generator final : at::CPUGeneratorImpl {
  at::Generator host;

  explicit Generator(c10::DeviceIndex device) : host(at::detail::createCPUGenerator()) {
    device_ = c10::Device(kType, device);
    key_set_ = c10::DispatchKeySet(c10::DispatchKey::PrivateUse1);
  }
  void set_current_seed(uint64_t seed) override { host.set_current_seed(seed); }
  uint64_t current_seed() const override { return host.current_seed(); }
  uint64_t seed() override { return host.seed(); }
  void set_state(const c10::TensorImpl& state) override { host.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return host.unsafeGetGeneratorImpl()->get_state(); }
};

}  // namespace

at::Generator new_generator(c10::DeviceIndex device) { return at::make_generator<Generator>(device < 0 ? current_device() : device); }

const at::Generator& default_generator(c10::DeviceIndex device) {
  static const auto* const all = [] {
    auto* const found = new std::vector<at::Generator>();
    for (c10::DeviceIndex d = 0; d < kDevices; ++d) found->push_back(new_generator(d));
    return found;
  }();
  return all->at(size_t(device < 0 ? current_device() : device));
}

at::Generator host_generator(const at::Generator& generator) {
  return generator.device().type() == kType ? static_cast<Generator*>(generator.unsafeGetGeneratorImpl())->host : generator;
}

}  // namespace deepport::sim
