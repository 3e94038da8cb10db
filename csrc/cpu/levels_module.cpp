// `deepport_cpu._levels`: which instruction sets there are. Without OpenMP and kernels, so that a probe may import it before torch.
#include <pybind11/pybind11.h>

#include "level.h"

namespace py = pybind11;

PYBIND11_MODULE(_levels, m) {
  m.def("chosen", [] { return deepport::chosen().name; }, "The level in use: the fastest here, or DEEPPORT_CPU_LEVEL.");
  m.def(
      "present",
      [] {
        py::list names;
        for (const deepport::Level& level : deepport::levels())
          if (level.present()) names.append(level.name);
        return names;
      },
      "The levels of this build that this processor can run, the slowest first.");
}
