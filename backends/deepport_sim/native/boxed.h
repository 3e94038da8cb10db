// The device's kernel for every operator.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include <map>
#include <string>
#include <vector>

namespace deepport::sim {

void boxed(const c10::OperatorHandle& op, torch::jit::Stack* stack);
void register_structured();

// How often each operator was asked for, since the process began; a kernel of its own counts itself.
void count(const std::string& op);
std::map<std::string, int64_t> operators();

// Operators, as "aten::sort", that this device has no kernel for; those outside of aten it never has.
void set_lacking(const std::vector<std::string>& operators);

}  // namespace deepport::sim
