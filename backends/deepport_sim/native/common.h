// What every part knows: which device this is, how many there are, and the one lock.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <mutex>

namespace deepport::sim {

constexpr auto kType = c10::DeviceType::PrivateUse1;
constexpr c10::DeviceIndex kDevices = 2;

// Guards all bookkeeping. Never held while an operator computes, nor while anything asks for Python's lock: a thread that holds
// that one may be waiting for this.
std::recursive_mutex& mutex();
using Lock = std::lock_guard<std::recursive_mutex>;

inline bool on_device(const at::Tensor& t) { return t.defined() && t.device().type() == kType; }

}  // namespace deepport::sim
