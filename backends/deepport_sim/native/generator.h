// Random numbers: a device's generator draws what the CPU's would, from a state of its own.
#pragma once

#include <ATen/core/Generator.h>

#include "common.h"

namespace deepport::sim {

const at::Generator& default_generator(c10::DeviceIndex device);
at::Generator new_generator(c10::DeviceIndex device);

// The CPU generator with a device generator's state; any other generator itself.
at::Generator host_generator(const at::Generator& generator);

}  // namespace deepport::sim
