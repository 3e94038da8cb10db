// `deepport_cpu._native`: the kernels of the chosen level, as Python functions over tensors. Nothing is checked here but types:
// the wrappers in `deepport_cpu` pass contiguous tensors of the sizes that they say.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <tuple>
#include <type_traits>

#include "kernels.h"
#include "level.h"
#include "recording.h"
#include "tensor.h"

namespace py = pybind11;

namespace deepport {
namespace {

// How Python passes a kernel's parameter.
template <class A>
struct Passed {
  using type = A;
  static A unwrap(A value) { return value; }
};

template <class T>
struct Passed<T*> {
  using type = Data<T>;
  static T* unwrap(const Data<T>& value) { return value.address; }
};

template <class... A>
auto bound(void (*kernel)(A...)) {
  return [kernel](typename Passed<A>::type... passed) {
    const std::tuple<A...> arguments(Passed<A>::unwrap(passed)...);
    const auto call = [kernel, arguments] { std::apply(kernel, arguments); };
    {
      py::gil_scoped_release computing;
      call();
    }
    if (Recording* recording = Recording::current())
      recording->note([call, owners = std::make_tuple(passed...)] { call(); });
  };
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  const char* level = chosen().name;
  const Table& kernels = *table(level);
  m.attr("level") = level;

  py::class_<Recording>(m, "Recording", "Kernel calls, made again by replay(), in the same memory.")
      .def(py::init<>())
      .def("begin", [](Recording& self) { Recording::current() = &self; })
      .def("end", [](Recording&) { Recording::current() = nullptr; })
      .def("replay", &Recording::replay, py::call_guard<py::gil_scoped_release>())
      .def("replay_timed", &Recording::replay_timed, py::call_guard<py::gil_scoped_release>())
      .def("take_seconds", &Recording::take_seconds)
      .def("__len__", &Recording::size);

#define DEEPPORT_BIND(name, ...) m.def(#name, bound(kernels.name), #__VA_ARGS__);
  DEEPPORT_KERNELS(DEEPPORT_BIND)
}

}  // namespace deepport
