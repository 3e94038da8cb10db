// The Python module: what deepport_sim/device.py and kernels.py are made of.
#include <torch/csrc/utils/pybind.h>

#include "boxed.h"
#include "generator.h"
#include "memory.h"
#include "rules.h"
#include "trap.h"
#include "work.h"

namespace py = pybind11;

namespace deepport::sim {

void register_hooks();

namespace {

py::list all_findings() {
  py::list found;
  for (const Finding& f : findings()) found.append(py::make_tuple(name(f.rule), f.op, f.site, f.text));
  return found;
}

py::dict policies() {
  static constexpr const char* names[] = {"allow", "warn", "error"};
  py::dict found;
  for (size_t r = 0; r < size_t(Rule::count); ++r) found[name(Rule(r))] = names[size_t(policy(Rule(r)))];
  return found;
}

// A kernel's work, for Python: (tensor, argument's name, whether it is written) of every tensor. `reads_written`: as in `Work`.
using Arguments = std::vector<std::tuple<at::Tensor, std::string, bool>>;

std::unique_ptr<Work> started(const std::string& op, const Arguments& arguments, bool reads_written) {
  auto work = std::make_unique<Work>(kept(op));
  for (const auto& [tensor, argument, written] : arguments) work->argument(tensor, kept(argument), written);
  const py::gil_scoped_release unlocked;
  work->start(reads_written, /*only_moves=*/false);
  return work;
}

}  // namespace

PYBIND11_MODULE(_sim, m) {
  register_hooks();
  register_structured();
  m.def("default_generator", &default_generator);
  m.def("device_count", [] { return int(kDevices); });
  m.def("current_device", [] { return int(current_device()); });
  m.def("set_device", [](int device) { set_current_device(c10::DeviceIndex(device)); });
  m.def("set_paths", &set_paths);
  m.def("set_trap", &set_trap);
  m.def("operators", &operators);
  m.def("set_lacking", &set_lacking);
  m.def("set_policy", [](const std::string& rule, const std::string& policy) {
    set_policy(rule, policy);
    apply_host_access();
  });
  m.def("policies", &policies);
  m.def("findings", &all_findings);
  m.def("forget_findings", &forget_findings);
  m.def("raise_deferred", &raise_deferred);
  m.def("set_capacity", &set_capacity);
  m.def("set_dry", &set_dry);
  m.def("dry", &dry);
  py::class_<Work>(m, "Work")
      .def(py::init(&started))
      .def("view", &Work::view)
      .def("adopt", &Work::adopt)
      .def("done", &Work::done);
}

}  // namespace deepport::sim
